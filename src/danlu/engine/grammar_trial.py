"""Compiles a grammar in a process of its own, to see whether it is harmless: a script.

llguidance bounds the work of a step, but not all work of compiling: a few references in a row
overflow its stack, a `multipleOf` can take minutes and gigabytes. Here that ends this process only.
It runs isolated, so it knows nothing of danlu: the grammar comes by standard input, and what is
wrong with it goes to standard output.
"""

from __future__ import annotations

import resource
import signal
import sys
import threading

CPU_SECONDS = 1.0
MEMORY_BYTES = 1 << 30
# Half of what a thread gets at least, so what passes here has room everywhere.
STACK_BYTES = 1 << 20


def main() -> None:
    """Compile what standard input holds, and compute the first step."""
    from llguidance import LLMatcher, LLTokenizer

    source = sys.stdin.buffer.read().decode()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # its signal ends the process

    def attempt() -> None:
        matcher = LLMatcher(LLTokenizer("byte"), source, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()
        sys.stdout.buffer.write(matcher.get_error().encode())

    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
