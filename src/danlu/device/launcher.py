"""Starts a command once for each device, by torch's own launcher, in this process.

It is what torchrun calls (torch.distributed.launcher); called directly it can be asked how each
process ended, so that danlu's own words and exit codes reach the user. Who is who stands in each
process's environment. Source: torch's documentation of torchrun, "Environment Variables".
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from danlu.container import num_processors
from danlu.environment import set_here, set_unless_given
from danlu.errors import EXIT_INTERRUPTED, EXIT_OK, EnvironmentFault, UsageError
from danlu.files.scratch import scratch_folder
from danlu.language import _
from danlu.reasons import as_sentence, reason_of

# How long processes that were asked to stop may take: a step, and saving.
_STOPPING_S = "600"
# How often it is looked whether one has ended.
_EVERY_S = 0.2
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A process's place: rank among all `size` processes, local_rank on its machine.

    is_launched: a launcher has started it, which must not be done again.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    local_size: int = 1
    is_launched: bool = False

    @property
    def is_lead(self) -> bool:
        """Whether this process leads."""
        return self.rank == 0

    @classmethod
    def own(cls, environ: Mapping[str, str] = os.environ) -> Place:
        """Return where a launcher has put this process. Raises UsageError for half a place."""
        # Clouds set RANK and WORLD_SIZE for whole machines; only a launcher sets LOCAL_RANK.
        if "LOCAL_RANK" not in environ:
            return cls()
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        try:
            rank, local_rank, size, local_size = (int(environ[name]) for name in names)
            if 0 <= rank < size and 0 <= local_rank < local_size <= size:
                return cls(
                    rank=rank,
                    local_rank=local_rank,
                    size=size,
                    local_size=local_size,
                    is_launched=True,
                )
        except (KeyError, ValueError):
            pass
        found = " ".join(f"{name}={environ.get(name, '')}" for name in names)
        raise UsageError(
            _("The launcher has not said which process this is."),
            why=_("The environment has {found}.").format(found=found),
            fix="unset LOCAL_RANK RANK WORLD_SIZE LOCAL_WORLD_SIZE",
        )


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Machines that train together: how many, which one this is, and where the first one listens.

    The variables are those of LLaMA-Factory's launcher.
    """

    count: int = 1
    rank: int = 0
    address: str = ""
    port: int = 29500

    @classmethod
    def of(cls, environ: Mapping[str, str] = os.environ) -> Nodes:
        """Read NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT. Raises UsageError."""
        names = ("NNODES", "NODE_RANK", "MASTER_PORT")
        given = {name: environ[name] for name in names if environ.get(name)}
        try:
            count, rank, port = (
                int(given.get(name, usual))
                for name, usual in zip(names, (1, 0, cls.port), strict=True)
            )
            if count == 1:
                return cls()
            address = environ.get("MASTER_ADDR", "")
            if address and 0 <= rank < count and 0 < port < 1 << 16:
                return cls(count=count, rank=rank, address=address, port=port)
        except ValueError:
            pass
        said = " ".join(f"{name}={value}" for name, value in given.items())
        raise UsageError(
            _("The machines of this training are not known."),
            why=_("The environment has {found}.").format(found=said or "NNODES"),
            fix=_(
                "Set NNODES, MASTER_ADDR and MASTER_PORT on each machine, and NODE_RANK from 0; or "
                "unset NNODES"
            ),
        )


def processes_wanted(usual: int, environ: Mapping[str, str] = os.environ) -> int:
    """Read LLaMA-Factory's NPROC_PER_NODE. Raises UsageError for what is no number above 0."""
    given = environ.get("NPROC_PER_NODE") or str(usual)
    if given.isdecimal() and int(given):
        return int(given)
    raise UsageError(
        _("The variable NPROC_PER_NODE is not a number of processes."),
        why=_("The environment has {found}.").format(found=f"NPROC_PER_NODE={given}"),
        fix="unset NPROC_PER_NODE",
    )


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How the first process that failed ended. signal: its number, 0 where it left by itself."""

    rank: int = 0
    code: int = EXIT_OK
    signal: int = 0

    @property
    def signal_name(self) -> str:
        """The signal as people write it: SIGKILL."""
        return signal.Signals(self.signal).name


def run_on_each(words: Sequence[str], *, num_devices: int, nodes: Nodes = Nodes()) -> Ended:
    """Run `danlu WORDS` in a process for each device of this machine; say how that ended.

    Signals go on to all of them, SIGHUP too unless it is ignored here, as under nohup. Where one
    ends, the others are ended within half a minute. Raises EnvironmentFault where the machines do
    not find each other.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _prepare_environment(num_devices)
    is_one = nodes.count == 1
    try:
        with scratch_folder() as notes:  # torch never removes a folder of its own
            config = LaunchConfig(
                min_nodes=nodes.count,
                max_nodes=nodes.count,
                nproc_per_node=num_devices,
                run_id=uuid.uuid4().hex if is_one else "danlu",
                rdzv_backend="c10d" if is_one else "static",
                rdzv_endpoint="localhost:0" if is_one else f"{nodes.address}:{nodes.port}",
                rdzv_configs={} if is_one else {"rank": nodes.rank},
                local_addr="localhost" if is_one else None,
                max_restarts=0,
                monitor_interval=_EVERY_S,
                signals_to_handle=",".join(one.name for one in _SIGNALS if _is_heard(one)),
                logs_specs=DefaultLogsSpecs(log_dir=str(notes)),
            )
            elastic_launch(config, sys.executable)("-m", "danlu", *words)
    except SignalException:
        return Ended(code=EXIT_INTERRUPTED)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        code = failure.exitcode
        return Ended(rank=rank, code=max(code, 1), signal=max(-code, 0))
    except RuntimeError as fault:  # of torch's store, where they are to meet
        raise EnvironmentFault(
            _("The {count} machines of this training do not find each other.").format(
                count=nodes.count
            ),
            why=as_sentence(_cause(fault)),
            fix=_(
                "Set MASTER_ADDR to the address of the first machine, and MASTER_PORT to a port "
                "that is free there"
            ),
        ) from fault
    return Ended()


def end_with_launcher() -> None:
    """Let this process have SIGTERM where torch's launcher has ended without a word.

    It would be killed or lost: then nobody could stop the training any more.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return  # another kind of launcher may leave its processes on purpose
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="launcher", daemon=True).start()


def _is_heard(number: signal.Signals) -> bool:
    return signal.getsignal(number) is not signal.SIG_IGN


def _cause(fault: RuntimeError) -> str:
    """Return what the system said, where torch's sentence has a number of it."""
    number = re.search(r"\bcode: -?(\d+)", str(fault))
    if number is not None:
        return reason_of(OSError(int(number[1]), os.strerror(int(number[1]))))
    return reason_of(fault).partition(". ")[0]


def _prepare_environment(num_devices: int) -> None:
    for name in set_here():  # each process finds what is right for itself
        del os.environ[name]
    set_unless_given(
        {
            "OMP_NUM_THREADS": str(max(1, num_processors() // num_devices)),
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": _STOPPING_S,
        }
    )
    # What it reports is for programmers; the processes speak for themselves.
    logging.disable(logging.CRITICAL)
