#!/bin/sh
# Creates or updates the virtual environment named by the first argument, from requirements.lock only.
# PYTHON=/path/to/python chooses the interpreter; the default is the first suitable one on the PATH.
set -eu

folder=$1
place=$(pwd -P)

suitable() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

choose_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if suitable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    found=$("${PYTHON:-python3}" --version 2>/dev/null | head -n 1)
    echo "Tollhouse needs Python 3.11 or newer; ${PYTHON:-python3} is ${found:-missing}." >&2
    echo "Install one, or name it: make demo PYTHON=/path/to/python3.12" >&2
    exit 1
}

# An environment that was copied or moved refers to its old folder, and one of an older Python cannot be used.
kept() {
    suitable "$folder/bin/python" && [ "$(cat "$folder/.ready" 2>/dev/null)" = "$place" ]
}

if ! kept; then
    python=$(choose_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "$python has no venv and pip; on Debian and Ubuntu: apt install python3-venv" >&2
        exit 1
    fi
    echo "Creating the environment in $folder with $("$python" --version); this takes a minute, once only." >&2
    "$python" -m venv --clear "$folder"
fi

pip() {
    "$folder/bin/python" -m pip --disable-pip-version-check --quiet "$@"
}
pip install --require-hashes --requirement requirements.lock
pip install --no-deps --no-build-isolation --editable clients/python --editable integrations/litellm --editable .
printf '%s' "$place" >"$folder/.ready"
