#!/bin/sh
# Offers to make the command danlu known in every terminal, by a link in a folder of PATH.
# Asks on a terminal; elsewhere it says how. Run by `make setup`.
set -eu
danlu=$(cd "$(dirname "$0")/.." && pwd)/.venv/bin/danlu

say() { # CHINESE ENGLISH
    case ${DANLU_LANG:-${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}} in
        zh*) printf '%s\n' "$1" ;;
        *) printf '%s\n' "$2" ;;
    esac
}

known=$(command -v danlu || true)
if [ -n "$known" ] && [ "$(readlink -f "$known")" = "$(readlink -f "$danlu")" ]; then exit 0; fi

link=
for folder in "$HOME/.local/bin" "$HOME/bin" /usr/local/bin; do
    case ":$PATH:" in *":$folder:"*) ;; *) continue ;; esac
    if [ -w "$folder" ] && [ ! -e "$folder/danlu" ]; then link=$folder/danlu && break; fi
done

say "丹炉在 $danlu。这个终端里：source .venv/bin/activate" \
    "danlu is $danlu. In this terminal: source .venv/bin/activate"
[ -n "$link" ] || exit 0
if [ ! -t 0 ]; then
    say "在所有终端里：ln -s '$danlu' '$link'" "In every terminal: ln -s '$danlu' '$link'"
    exit 0
fi
say "要让所有终端都认识 danlu 命令吗？会建立链接 $link [y/N]" \
    "Make the command danlu known in every terminal, by the link $link? [y/N]"
read -r answer || answer=
case $answer in
    y | Y | yes | 是) ln -s "$danlu" "$link" ;;
esac
