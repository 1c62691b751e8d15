"""Compiles a grammar in a process of its own, to see whether it is harmless: a script.

llguidance bounds the work of a step, but not all work of compiling: a few references in a row
overflow its stack, a `multipleOf` can take minutes and gigabytes. Nor does it bound the first step,
which follows a text that leaves no choice to its end. Here that ends this process only. It runs
isolated, so it knows nothing of danlu: the grammar comes by standard input; on standard output are
the kilobytes that it takes, and behind a space what is wrong with it.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading

CPU_SECONDS = 0.5
MEMORY_BYTES = 1 << 30
LEXER_STATES = 50_000
# A text that leaves no choice takes a microsecond a byte, in one step, while all others wait.
FORCED_BYTES = 8192
STEPS = 24
# Half of what a thread gets at least, so what passes here has room everywhere.
STACK_BYTES = 1 << 20


def main() -> None:
    """Compile what standard input holds, and follow it for a few steps."""
    os.nice(10)  # answers are more urgent, also than what follows
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    source = sys.stdin.buffer.read().decode()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # its signal ends the process

    def attempt() -> None:
        limits = LLParserLimits(max_lexer_states=LEXER_STATES)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        matcher = LLMatcher(LLTokenizer("byte"), source, log_level=0, limits=limits)
        error = ""
        for step in range(STEPS):
            if matcher.is_stopped():
                break
            marks = matcher.compute_logit_bias()
            forced = 0 if matcher.is_error() else len(matcher.compute_ff_bytes())
            if forced > FORCED_BYTES:
                error = f"it leaves no choice for more than {FORCED_BYTES} bytes"
                break
            # The first way, then the last, in turns: what comes after a choice is seen too.
            way = marks.rfind(200) if step % 2 else marks.find(200)
            if way < 0 or way >= len(marks) - 1 or not matcher.consume_token(way):
                break
        error = matcher.get_error() or error
        taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        sys.stdout.buffer.write(f"{taken} {error}".encode())

    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
