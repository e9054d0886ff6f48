// Programs, and the C functions that Python calls.
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "isas.h"

namespace rl {
namespace {

constexpr int64_t ABI_VERSION = 3;

struct Entry {
    Kernel kernel;
    const int64_t* words;
};

struct Freed {
    void operator()(char* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<char, Freed>;

Memory allocate(int64_t nbytes) {
    const int64_t rounded = (nbytes + 4095) / 4096 * 4096 + 4096;
    Memory memory(static_cast<char*>(std::aligned_alloc(4096, rounded)));
    if (!memory) throw std::bad_alloc();
    return memory;
}

struct Program {
    Pool* pool;
    std::vector<int64_t> words;
    std::vector<Entry> entries;
    std::vector<char*> constants;
    std::unique_ptr<std::atomic<int64_t>[]> counters;
    char* arena;
    std::vector<Memory> scratch;
    int64_t num_inputs, num_outputs;
    std::mutex running;

    void run(char* const* inputs, char* const* outputs) {
        std::lock_guard<std::mutex> one(running);
        std::vector<char*> bases;
        bases.reserve(1 + constants.size() + num_inputs + num_outputs);
        bases.push_back(arena);
        bases.insert(bases.end(), constants.begin(), constants.end());
        bases.insert(bases.end(), inputs, inputs + num_inputs);
        bases.insert(bases.end(), outputs, outputs + num_outputs);
        std::vector<char*> scratches;
        for (const Memory& memory : scratch) scratches.push_back(memory.get());
        for (size_t i = 0; i < entries.size(); ++i) counters[i].store(0, std::memory_order_relaxed);
        pool->run([&](int thread) {
            Context context{thread,  pool->threads(),  bases.data(),    scratches[thread],
                            nullptr, &pool->barrier(), scratches.data()};
            for (size_t i = 0; i < entries.size(); ++i) {
                context.counter = &counters[i];
                entries[i].kernel(context, entries[i].words);
                if (i + 1 < entries.size()) context.wait();
            }
        });
    }
};

struct Row {
    const char* name;
    bool has_expression;
    const char* fields;
};

constexpr Row ROWS[] = {
#define RL_ROW(name, has_expression, fields) {#name, has_expression, fields},
    RL_INSTRUCTIONS(RL_ROW)
#undef RL_ROW
};

constexpr const char* STEPS[] = {
#define RL_NAME(name) #name,
    RL_STEPS(RL_NAME)
#undef RL_NAME
};

}  // namespace
}  // namespace rl

using rl::Program;

extern "C" {

int64_t rl_abi_version() { return rl::ABI_VERSION; }

// The instruction set chosen where `name` is empty or null; null where the one named is not here.
const char* rl_isa(const char* name) {
    const rl::Kernels* found = rl::find_kernels(name);
    return found ? found->name : nullptr;
}

bool rl_has_bf16(const char* isa) {
    const rl::Kernels* found = rl::find_kernels(isa);
    return found && found->has_bf16;
}

bool rl_has_int8(const char* isa) {
    const rl::Kernels* found = rl::find_kernels(isa);
    return found && found->has_int8;
}

// The table of instructions and steps, by number; null beyond the last.
const char* rl_instruction(int64_t opcode) {
    return opcode < rl::NUM_OPCODES ? rl::ROWS[opcode].name : nullptr;
}
const char* rl_fields(int64_t opcode) {
    return opcode < rl::NUM_OPCODES ? rl::ROWS[opcode].fields : nullptr;
}
bool rl_has_expression(int64_t opcode) { return rl::ROWS[opcode].has_expression; }
const char* rl_step(int64_t step) { return step < rl::NUM_STEPS ? rl::STEPS[step] : nullptr; }

int64_t rl_packed_nbytes(const char* isa, int64_t type, int64_t n, int64_t k) {
    return rl::find_kernels(isa)->packed_nbytes(type, n, k);
}
void rl_pack(const char* isa, int64_t type, int64_t n, int64_t k, const void* w, int64_t stride_n,
             int64_t stride_k, void* packed) {
    rl::find_kernels(isa)->pack(type, n, k, w, stride_n, stride_k, packed);
}

void* rl_pool_create(int64_t threads) try {
    return new rl::Pool(int(threads));
} catch (...) {
    return nullptr;
}
void rl_pool_free(void* pool) { delete static_cast<rl::Pool*>(pool); }

// Copies the words; constants, the pool and the arena must outlive the program. Null where memory lacks.
void* rl_program_create(void* pool, const char* isa, const int64_t* words, int64_t num_words,
                        void* const* constants, int64_t num_constants, int64_t num_inputs,
                        int64_t num_outputs, void* arena) try {
    auto program = std::make_unique<Program>();
    program->pool = static_cast<rl::Pool*>(pool);
    program->words.assign(words, words + num_words);
    const rl::Kernels* kernels = rl::find_kernels(isa);
    for (int64_t at = 0; at < num_words;) {
        const int64_t* word = program->words.data() + at;
        program->entries.push_back({kernels->instructions[word[0]], word + 2});
        at += 2 + word[1];
    }
    for (int64_t i = 0; i < num_constants; ++i)
        program->constants.push_back(static_cast<char*>(constants[i]));
    program->counters = std::make_unique<std::atomic<int64_t>[]>(program->entries.size() + 1);
    program->arena = static_cast<char*>(arena);
    for (int i = 0; i < program->pool->threads(); ++i)
        program->scratch.push_back(rl::allocate(rl::SCRATCH_NBYTES));
    program->num_inputs = num_inputs;
    program->num_outputs = num_outputs;
    return program.release();
} catch (...) {
    return nullptr;
}
void rl_program_run(void* program, void* const* inputs, void* const* outputs) {
    static_cast<Program*>(program)->run(reinterpret_cast<char* const*>(inputs),
                                        reinterpret_cast<char* const*>(outputs));
}
void rl_program_free(void* program) { delete static_cast<Program*>(program); }

}  // extern "C"
