"""End all processes of a run together: if one fails, it reports the error and the others exit with its code."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

import torch.distributed as dist

from errors import UserError, exit_code

# Keys of the shared store. _FAILED: "RANK CODE" of the first process that failed. _ENDED: number of ended processes.
_FAILED, _ENDED = "failed", "ended"
_POLL_SECONDS, _MAX_WAIT_SECONDS = 0.1, 5.0


@contextmanager
def exit_together() -> Iterator[None]:
    """Context around a whole command: all processes that torchrun started end together.

    The first process that fails puts its exit code into the shared store and raises its error. The others exit
    silently with the same code, whatever they are doing. A process that is killed cannot report this; the others then
    raise UserError about the lost connection. At the end the process group, if there is one, is destroyed.
    """
    rank, count = rank_and_count()
    if count == 1:
        yield
        return
    store, done = shared_store().clone(), threading.Event()  # a separate connection, since calls may block
    watcher = threading.Thread(target=_watch_for_failure, args=(store, rank, count, done), daemon=True)
    watcher.start()
    try:
        yield
        if dist.is_initialized():
            dist.destroy_process_group()
    except (Exception, KeyboardInterrupt) as error:
        reported = _explain_lost_connection(error, rank, count) or error
        done.set()
        watcher.join()
        first, code = _record_failure(store, rank, exit_code(reported))
        if first != rank:
            sys.exit(code)
        raise reported from reported.__cause__
    finally:
        done.set()
        watcher.join()
        _mark_ended(store, rank, count)


def rank_and_count() -> tuple[int, int]:
    """The rank of this process and the number of processes."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@cache
def shared_store() -> dist.Store:
    """The key-value store that all processes of this start share. It lives in torchrun or in the process of rank 0."""
    store, _, _ = next(dist.rendezvous("env://"))
    # torchrun may keep its store over restarts, with the addresses of processes that no longer exist.
    return dist.PrefixStore(f"start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _watch_for_failure(store: dist.Store, rank: int, count: int, done: threading.Event) -> None:
    """Exit this process as soon as another one has failed.

    Runs in a thread, because the main thread may be waiting in a call that no signal can interrupt.
    """
    with suppress(dist.DistError):  # the process with the store is gone: the main thread will notice this itself
        while not done.wait(_POLL_SECONDS):
            if store.check([_FAILED]):
                _, code = _record_failure(store, rank, 0)
                _mark_ended(store, rank, count)
                os._exit(code)


def _record_failure(store: dist.Store, rank: int, code: int) -> tuple[int, int]:
    """Record that this process failed, if no process failed before. Return rank and exit code of the first failure."""
    with suppress(dist.DistError):
        rank, code = map(int, store.compare_set(_FAILED, "", f"{rank} {code}").split())
    return rank, code


def _mark_ended(store: dist.Store, rank: int, count: int) -> None:
    """Count this process as ended. Rank 0, which may hold the store, waits until the others no longer need it."""
    deadline = time.monotonic() + _MAX_WAIT_SECONDS
    with suppress(dist.DistError):
        ended = store.add(_ENDED, 1)
        while rank == 0 and ended < count and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            ended = store.add(_ENDED, 0)


def _explain_lost_connection(error: BaseException, rank: int, count: int) -> UserError | None:
    """The UserError to raise if `error` comes from communication with a process that is gone; else None."""
    from_gloo = any(text in str(error) for text in ("/gloo/", "caused pair closure"))
    if not isinstance(error, dist.DistError) and not from_gloo:
        return None
    what = f"the connection to another process is lost ({str(error).splitlines()[0]})"
    do = "find out why that process ended (killed, out of memory, its machine gone?), then run the same command again"
    return UserError(f"process {rank} of {count}", what, do)
