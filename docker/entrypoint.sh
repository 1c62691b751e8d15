#!/usr/bin/env bash
# What every container of danlu runs first: CANN's variables where there is a CANN, then the command.
# They must not wait in ~/.bashrc, which only a terminal reads: not a command, not a health check.

# In a function, so that the file does not take the container's command for its own words.
load() {
    local file=$1
    shift
    # shellcheck disable=SC1090
    if [ -f "$file" ]; then source "$file" "$@"; else return 1; fi
}

load /usr/local/Ascend/cann/set_env.sh || load /usr/local/Ascend/ascend-toolkit/set_env.sh
# Where the ABI is not named, this one starts a Python and loads torch to ask for it.
load /usr/local/Ascend/nnal/atb/set_env.sh --cxx_abi=1
exec "$@"
