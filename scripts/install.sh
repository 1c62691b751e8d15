#!/usr/bin/env bash
# Installs danlu on a bare machine, or repairs what is there: Linux on x86-64 or aarch64, with an
# NVIDIA card, an Ascend NPU or neither.
#     bash scripts/install.sh            into .venv beside this folder; again does no harm
#     bash scripts/install.sh --banner   and show the machine at each login
# --device npu|cuda|cpu is for images, which are built without the device; --jupyter adds JupyterLab. In
# a bundle of `danlu bundle` it installs what is there, and asks no network.
# PYTHON=... takes that Python; PIP_ARGS=... are words for pip, in the place of its own choice of a
# torch build. Here a Python is found; what is installed with it, tools/install decides.
set -euo pipefail

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)

in_chinese() {
    case "${DANLU_LANG:-${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}}" in
        [zZ][hH]*) return 0 ;;
        *) return 1 ;;
    esac
}

say() { # ENGLISH CHINESE
    if in_chinese; then printf '%s\n' "$2"; else printf '%s\n' "$1"; fi >&2
}

# The environment may be active in this terminal: it is made with the Python below it.
PATH=":$PATH:"
PATH=${PATH//":$root/.venv/bin:"/:}
PATH=${PATH#:}
export PATH=${PATH%:}

# In a bundle: the one Python that its packages are for.
wanted= record=
if [ -f "$root/bundle.json" ]; then record=$(<"$root/bundle.json"); fi
if [[ $record =~ \"python\":\ *\"([0-9.]+)\" ]]; then wanted=${BASH_REMATCH[1]}; fi

# A Python that is new enough, and not that of the environment which is to be made with it.
is_usable() {
    "$1" -c 'import sys
wanted = tuple(map(int, filter(None, sys.argv[2].split("."))))
sys.exit(sys.version_info < (3, 10) or sys.prefix == sys.argv[1]
         or sys.version_info[:len(wanted)] != wanted)' "$root/.venv" "$wanted" 2>/dev/null
}

can_make_environments() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

has_torch_npu() {
    "$1" -c 'import importlib.util as u, sys
sys.exit(not (u.find_spec("torch") and u.find_spec("torch_npu")))' 2>/dev/null
}

# Sets python: the first with torch_npu, else the first that can make environments, else "".
# incomplete: one that only lacks the means to make them.
find_python() {
    python= incomplete=
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.10; do
        [ -n "${PYTHON:-}" ] && [ "$candidate" != "$PYTHON" ] && continue
        candidate=$(command -v "$candidate") && is_usable "$candidate" || continue
        if ! can_make_environments "$candidate"; then
            incomplete=${incomplete:-$candidate}
        elif has_torch_npu "$candidate"; then
            python=$candidate
            return
        else
            python=${python:-$candidate}
        fi
    done
}

# Prints the command that would bring a Python; nothing where no such command is known.
command_for_python() {
    local words=
    if command -v apt-get >/dev/null; then
        if [ -n "$incomplete" ]; then
            words="apt-get install -y $("$incomplete" -c 'import sys
print("python{}.{}-venv".format(*sys.version_info))')"
        elif ! command -v python3 >/dev/null; then
            words="apt-get install -y python3 python3-venv"
        fi
    elif command -v dnf >/dev/null && ! command -v python3 >/dev/null; then
        words="dnf install -y python3 python3-pip"
    fi
    if [ -n "$words" ] && [ "$(id -u)" != 0 ]; then words="sudo $words"; fi
    printf '%s' "$words"
}

what_is_missing() {
    if [ -n "$incomplete" ]; then
        say "$incomplete cannot make environments: its package venv is missing." \
            "$incomplete 无法创建虚拟环境：缺少 venv 软件包。"
    elif [ -n "$wanted" ]; then
        say "This bundle is for Python $wanted." "此安装包需要 Python $wanted。"
    else
        say "danlu needs Python 3.10 or newer." "丹炉需要 Python 3.10 以上。"
    fi
}

# Says what is missing and the command for it; runs it only when a person says yes.
get_python() {
    local words= answer
    [ -n "$wanted" ] || words=$(command_for_python)
    what_is_missing
    if [ -z "$words" ]; then
        say "Found: $(python3 --version 2>&1 || echo '-')." "已找到：$(python3 --version 2>&1 || echo '-')。"
        say "Install one, then: PYTHON=/path/to/python3 bash '$root/scripts/install.sh'" \
            "请安装后运行：PYTHON=/path/to/python3 bash '$root/scripts/install.sh'"
        exit 3
    fi
    say "This command installs it:" "安装命令："
    printf '%s\n' "$words" >&2
    [ -t 0 ] && [ -t 2 ] || exit 3
    say "Run it now? [y/N]" "现在运行吗？[y/N]"
    read -r answer
    case $answer in [yY]*) ;; *) exit 3 ;; esac
    $words
    find_python
    [ -n "$python" ] || exit 3
}

find_python
[ -n "$python" ] || get_python

# CANN's own variables: without them torch_npu cannot be loaded.
if [ -z "${ASCEND_HOME_PATH:-}" ]; then
    for file in /usr/local/Ascend/cann/set_env.sh /usr/local/Ascend/ascend-toolkit/set_env.sh; do
        if [ -f "$file" ]; then
            set +eu
            # shellcheck disable=SC1090
            source "$file"
            set -eu
            break
        fi
    done
fi

cd "$root"
PYTHONPATH="$root:$root/src${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m tools.install "$@"
