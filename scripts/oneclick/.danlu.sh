# Read by the scripts beside it: finds danlu and a model, and makes this folder the one they work in.
#     DANLU_MODEL=starter ./1-8B推理-命令行.sh     another model; starter is built in, without network
# Settings that a script does not name itself can be given so: DANLU_MAX_STEPS=50, DANLU_PORT=8001;
# all of them behind it: ./2-8B模型一键微调.sh --cutoff_len 2048
set -euo pipefail
if [ -d "${DANLU_MODEL:-}" ]; then DANLU_MODEL=$(cd "$DANLU_MODEL" && pwd) && export DANLU_MODEL; fi
cd "$(dirname "${BASH_SOURCE[0]}")"

say() { # CHINESE ENGLISH
    case ${DANLU_LANG:-${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}} in
        zh*) printf '%s\n' "$1" ;;
        *) printf '%s\n' "$2" ;;
    esac
}

stop() { # CHINESE ENGLISH, to the error output
    say "$1" "$2" >&2
    exit 2
}

# The program: as danlu scripts install has noted it, of the clone this is in, or the one on PATH.
for danlu in ./.danlu-program ../../.venv/bin/danlu "$(command -v danlu || true)"; do
    [ ! -x "$danlu" ] || break
done
[ -x "$danlu" ] || stop "找不到 danlu。请先安装丹炉，再运行：danlu scripts install \"$PWD\"" \
    "danlu is not found. Install it, then run: danlu scripts install \"$PWD\""

on_autodl() { [ -d /root/autodl-tmp ] || env | grep -qi '^AUTODL'; }

# Runs and merged models: beside the scripts, on AutoDL on the data disk.
if [ ! -e saves ] && [ -d /root/autodl-tmp ]; then
    mkdir -p /root/autodl-tmp/danlu/saves
    ln -sfn /root/autodl-tmp/danlu/saves saves
fi

choose_model() { # DANLU_MODEL, else a Qwen3-8B that lies around, else the default model, else ask
    local folder answer
    [ -z "${DANLU_MODEL:-}" ] || return 0
    for folder in Qwen3-8B ~/Qwen3-8B /root/autodl-tmp/Qwen3-8B \
        {"${DANLU_HOME:-$HOME/.danlu}",/root/autodl-tmp/danlu}/models/Qwen3-8B; do
        if [ -f "$folder/config.json" ]; then
            DANLU_MODEL=$(cd "$folder" && pwd) && export DANLU_MODEL
            return 0
        fi
    done
    case $(DANLU_LANG=en "$danlu" use) in *": starter") ;; *) return 0 ;; esac
    [ -t 0 ] || stop "还没有选定模型。请运行 ./切换模型，或用 DANLU_MODEL=starter 使用内置的入门模型。" \
        "No model is chosen yet. Run ./切换模型, or use the built-in starter model: DANLU_MODEL=starter"
    say "还没有选定模型。1) 下载 Qwen3-8B（16 GB）  2) 这次用内置的入门模型  其他：退出" \
        "No model is chosen yet. 1) download Qwen3-8B (16 GB)  2) the built-in starter, this time"
    read -r -p "> " answer
    case $answer in
        1) "$danlu" pull Qwen3-8B && "$danlu" use Qwen3-8B ;;
        2) export DANLU_MODEL=starter ;;
        *) exit 2 ;;
    esac
}

need() { # FOLDER SCRIPT: the result of an earlier script
    [ -d "$1" ] || stop "还没有 $PWD/$1：请先运行 ./$2" "There is no $PWD/$1 yet: run ./$2 first"
}

make_key() { # sets key: DANLU_API_KEY, else what api_key.txt holds, which is made where it is missing
    key=${DANLU_API_KEY:-}
    [ -z "$key" ] || return 0
    [ -s api_key.txt ] || (umask 077 && head -c 24 /dev/urandom | base64 | tr '+/' '-_' > api_key.txt)
    key=$(cat api_key.txt) && export DANLU_API_KEY_FILE=api_key.txt
}

listen() { # serve|web, with the words of danlu serve: makes a key, says the address, starts
    "$danlu" "$1" --help > /dev/null
    local host=127.0.0.1 port=8000 path=/v1
    if [ "$1" = web ]; then port=6006 path=; fi
    if on_autodl; then host=0.0.0.0 port=6006; fi
    export DANLU_HOST=${DANLU_HOST:-$host} DANLU_PORT=${DANLU_PORT:-$port}
    make_key
    say "地址：http://127.0.0.1:$DANLU_PORT$path" "Address: http://127.0.0.1:$DANLU_PORT$path"
    if on_autodl; then
        say "公网地址：AutoDL 控制台的“自定义服务”，它转发端口 6006" \
            "From elsewhere: the custom service in AutoDL's console, which forwards port 6006"
    fi
    say "密钥：$key" "Key: $key"
    if [ "$1" = web ]; then
        say "页面会询问密钥；用下面带 link 的链接打开则不用输入（只能用一次）。" \
            "The page asks for the key; the link below opens it without, once."
    fi
    exec "$danlu" "$@"
}
