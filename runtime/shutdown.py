"""How the processes of one run end: all together, one of them saying why."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

import torch.distributed as dist

from errors import UserError, exit_code

# Keys of the store: "RANK CODE" of the first process that failed; how many processes have ended.
_FAILED, _LEFT = "failed", "left"
_LOOK_EVERY, _WAIT_FOR_OTHERS = 0.1, 5.0  # seconds


@contextmanager
def ending_together() -> Iterator[None]:
    """Within, processes that torchrun started end together: it goes around all that a command does.

    The first that fails leaves its exit code with the others and goes on with its error; the others end with that code
    and say nothing, wherever they are: waiting for it, or in the middle of an evaluation. Whoever is killed cannot tell
    why: UserError says that it is gone. The process group is left, if there is one.
    """
    rank, count = rank_and_count()
    if count == 1:
        yield
        return
    store, done = shared_store().clone(), threading.Event()  # a connection of its own, since calls may block
    watch = threading.Thread(target=_follow, args=(store, rank, count, done), daemon=True)
    watch.start()
    try:
        yield
        if dist.is_initialized():
            dist.destroy_process_group()
    except (Exception, KeyboardInterrupt) as error:
        problem = _lost_process(error, rank, count) or error
        done.set()
        watch.join()
        first, code = _first_failure(store, rank, exit_code(problem))
        if first != rank:
            sys.exit(code)
        raise problem from problem.__cause__
    finally:
        done.set()
        watch.join()
        _leave(store, rank, count)


def rank_and_count() -> tuple[int, int]:
    """The rank of this process, and how many processes there are."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@cache
def shared_store() -> dist.Store:
    """The store of the processes of this start, kept by torchrun or else by the first process."""
    store, _, _ = next(dist.rendezvous("env://"))
    # torchrun may keep its store over restarts, and in it the addresses of processes that are gone.
    return dist.PrefixStore(f"start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _follow(store: dist.Store, rank: int, count: int, done: threading.Event) -> None:
    """End this process as soon as another one has failed. Its main thread may wait where no signal interrupts it."""
    with suppress(dist.DistError):  # the process that kept the store is gone, which the main thread meets too
        while not done.wait(_LOOK_EVERY):
            if store.check([_FAILED]):
                _, code = _first_failure(store, rank, 0)
                _leave(store, rank, count)
                os._exit(code)


def _first_failure(store: dist.Store, rank: int, code: int) -> tuple[int, int]:
    """Rank and exit code of the process that failed first: this one, with `code`, if none has before."""
    with suppress(dist.DistError):
        rank, code = map(int, store.compare_set(_FAILED, "", f"{rank} {code}").split())
    return rank, code


def _leave(store: dist.Store, rank: int, count: int) -> None:
    """Count this process out. The first one, which may keep the store, lets the others read it before."""
    deadline = time.monotonic() + _WAIT_FOR_OTHERS
    with suppress(dist.DistError):
        left = store.add(_LEFT, 1)
        while rank == 0 and left < count and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY)
            left = store.add(_LEFT, 0)


def _lost_process(error: BaseException, rank: int, count: int) -> UserError | None:
    """What to say if `error` is that of a collective whose other end is gone."""
    told = any(words in str(error) for words in ("/gloo/", "caused pair closure"))
    if not isinstance(error, dist.DistError) and not told:
        return None
    what = f"the connection to another process is lost ({str(error).splitlines()[0]})"
    do = "see how that one ended (killed, out of memory, its machine gone?), then run the same command again"
    return UserError(f"process {rank} of {count}", what, do)
