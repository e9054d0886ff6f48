#!/bin/sh
# Makes .venv and installs Ridgeline into it with the extras named, e.g. `scripts/setup.sh demo,test`.
# Does nothing when that has been done for this folder, its pyproject.toml and constraints.txt, and its kernels.
set -eu
CDPATH='' cd -- "$(dirname -- "$0")/.."

extras=$1
kernels=$(find setup.py ridgeline/native/src -name "*.py" -o -name "*.h" -o -name "*.cpp" | LC_ALL=C sort | xargs cat | cksum)
# What is imported is compiled then, a fifth of all, and pip would compile the rest too; but where Python
# may write no bytecode, as in many containers, torch would be compiled anew at every start.
compile=--no-compile
[ -z "${PYTHONDONTWRITEBYTECODE:-}" ] || compile=--compile
key="$(cksum < pyproject.toml) $(cksum < constraints.txt) $kernels $compile $PWD"
stamp=.venv/.installed         # written last, so that an interrupted install leaves none
unfinished=.venv/.installing   # a folder that still has it is rebuilt: pip may have stopped half-way

fail() {
    echo "$1" >&2
    exit 1
}

is_python_311() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for candidate in python3.11 python3; do
        if is_python_311 "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "Ridgeline needs Python 3.11 or newer, and neither \`python3.11\` nor \`python3\` is one. Install it (Debian: apt-get install python3.11-venv) and run this again."
}

pip_install() {
    .venv/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt "$@"
}

make_venv() {
    python=$(find_python)
    echo "Making a virtual environment in .venv with $("$python" --version)."
    rm -rf .venv
    mkdir .venv
    touch "$unfinished"
    "$python" -m venv .venv || fail "$python cannot make a virtual environment. Install its venv module (Debian: apt-get install python3-venv) and run this again."
}

if [ -f "$stamp" ] && [ -x .venv/bin/python ]; then
    for covering in "$extras" demo,test; do
        [ "$(cat "$stamp")" = "$key $covering" ] && exit 0
    done
fi

if [ -e "$unfinished" ] || ! .venv/bin/python -c '' 2>/dev/null; then
    make_venv
elif ! is_python_311 .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    fail ".venv lacks pip or Python 3.11: remove it with \`make clean\`, then run this again."
fi

rm -f "$stamp"
touch "$unfinished"
echo "Installing Ridgeline [$extras] into .venv: about 500 MB to download with a CPU build of torch; one to three minutes, silent until done."
stopped="The install stopped (pip's reason is above). Run the same command again once it is dealt with."
pip_install setuptools || fail "$stopped"

# The kernels compile while pip downloads and unpacks. A shell's background job does not hear Ctrl-C.
mkdir -p build
rm -f ridgeline/native/_kernels*.so  # of other sources, or of another Python
.venv/bin/python setup.py -q build_ext --inplace > build/kernels.log 2>&1 &
compiling=$!
trap 'kill $compiling 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
RIDGELINE_KERNELS=apart
export RIDGELINE_KERNELS
pip_install $compile -e ".[$extras]" || fail "$stopped"
wait "$compiling" || true
trap - EXIT INT TERM
ls ridgeline/native/_kernels*.so >/dev/null 2>&1 || echo "The kernels did not compile, build/kernels.log says why; Ridgeline works without them."

rm -f "$unfinished"
echo "$key $extras" > "$stamp.new"
mv "$stamp.new" "$stamp"
