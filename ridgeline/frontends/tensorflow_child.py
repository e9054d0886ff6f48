"""The child of `tensorflow_file`: TensorFlow's own loader and tf2onnx, in a process of their own.

    python tensorflow_child.py SOURCE TARGET

It imports nothing of Ridgeline, so that any Python with TensorFlow can run it. Exit status 3:
something of the extra is not installed; 4: the source is refused, for the reason on the last line.
"""

import os
import resource
import sys
from collections.abc import Sequence

_OPSET = 18
MISSING, REFUSED = 3, 4


def main(source: str, target: str) -> int:
    """Converts a SavedModel folder or a frozen graph; the exit status."""
    limit_memory()
    try:
        import tensorflow as tf
        import tf2onnx  # noqa: F401
    except ImportError as error:
        print(error, file=sys.stderr)
        return MISSING
    try:
        if source.endswith(".pb"):
            _convert_graph(tf, source, target)
        else:
            _convert_saved(source, target)
    except Exception as error:  # TensorFlow raises dozens of types; each means the same
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        print(lines[0] if lines else type(error).__name__, file=sys.stderr)
        return REFUSED
    return 0


def limit_memory() -> None:
    """Keeps this process within the machine's memory, or a lower limit that it already has."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limits += [n for n in resource.getrlimit(resource.RLIMIT_AS) if n != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits),) * 2)


def _convert_saved(source: str, target: str) -> None:
    """The serving signature, or the only one."""
    from tf2onnx import convert, tf_loader

    graph, inputs, outputs = tf_loader.from_saved_model(source, None, None)
    convert._convert_common(
        graph,
        name=source,
        opset=_OPSET,
        input_names=inputs,
        output_names=outputs,
        output_path=target,
    )


def _convert_graph(tf: object, source: str, target: str) -> None:
    """From its placeholders to what nothing reads."""
    from tf2onnx import convert

    graph = tf.compat.v1.GraphDef()  # type: ignore[attr-defined]
    with open(source, "rb") as file:
        graph.ParseFromString(file.read())
    inputs, outputs = ends(graph.node)
    convert.from_graph_def(
        graph, input_names=inputs, output_names=outputs, opset=_OPSET, output_path=target
    )


def ends(nodes: Sequence[object]) -> tuple[list[str], list[str]]:
    """(placeholders, nodes that no other reads) of a frozen graph, as names of tensors."""
    read = {
        name.lstrip("^").partition(":")[0]
        for node in nodes
        for name in node.input  # type: ignore[attr-defined]
    }
    inputs, outputs = [], []
    for node in nodes:
        if node.op == "Placeholder":  # type: ignore[attr-defined]
            inputs.append(f"{node.name}:0")  # type: ignore[attr-defined]
        elif node.op not in ("Const", "NoOp") and node.name not in read:  # type: ignore[attr-defined]
            outputs.append(f"{node.name}:0")  # type: ignore[attr-defined]
    return inputs, outputs


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
