#!/bin/sh
# Rewrites constraints.txt: the newest versions that the extras `demo` and `test` resolve to, around a fixed torch.
set -eu
CDPATH='' cd -- "$(dirname -- "$0")/.."

torch=torch==2.13.0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3.11 -m venv "$work/venv"
echo "$torch" > "$work/torch.txt"
"$work/venv/bin/python" -m pip install -qq -c "$work/torch.txt" -e ".[demo,test]"

{
    echo "# Every package that \`pip install -e .[demo,test]\` brings in, pinned. Regenerate with \`make constraints\`."
    echo "# torch has no local suffix: pip takes the CPU build (2.13.0+cpu) wherever it finds one."
    "$work/venv/bin/python" -m pip freeze --all --exclude-editable --exclude pip | sed 's/+[^+]*$//'
} > "$work/constraints.txt"

if grep -Ev '^(#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.]+)$' "$work/constraints.txt"; then
    echo "The lines above are not \`name==version\`; constraints.txt is unchanged." >&2
    exit 1
fi
cp "$work/constraints.txt" constraints.txt
