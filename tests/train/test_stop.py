"""Stopping: signals leave a note, and all ranks decide the same at the same step."""

import os
import signal
import threading

import pytest
import torch
import torch.distributed as dist
from support.decisions import votes
from support.ranks import run_on_ranks
from support.steps import ALONE

from normhpc.train.stop import STOP_SIGNALS, Agreement, Decision, StopRequest, stop_on_signals


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_leaves_its_name(number):
    request = StopRequest()
    before = signal.getsignal(number)
    with stop_on_signals(request) as given:
        assert given is request
        assert request.reason is None
        signal.raise_signal(number)
        assert request.reason == number.name
    assert signal.getsignal(number) is before


def test_handlers_are_put_back_after_an_error():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with pytest.raises(ZeroDivisionError), stop_on_signals(StopRequest()):
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_other_threads_leave_signals_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with stop_on_signals(StopRequest()):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_dies_of_the_signal():
    request = StopRequest()
    with stop_on_signals(request):
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(7)  # reached only if the note of the parent was left instead
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGTERM
        assert request.reason is None


def test_decisions_add_up():
    nothing = Decision()
    assert nothing == Decision(stop=False, save=False, diverged_step=None)
    assert (Decision(stop=True) | Decision(save=True)) == Decision(stop=True, save=True)
    assert (nothing | Decision(diverged_step=7)) == Decision(diverged_step=7)
    assert (Decision(diverged_step=9) | Decision(diverged_step=7)) == Decision(diverged_step=7)
    assert (Decision(diverged_step=0) | nothing).diverged_step == 0


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("save", [False, True])
@pytest.mark.parametrize("step", [None, 0, 123])
def test_alone_a_vote_is_the_decision(stop, save, step):
    agreement = Agreement(ALONE)
    assert agreement.decide(stop=stop, save=save, diverged_step=step) == Decision(stop, save, step)
    assert agreement.last() == Decision()
    assert not dist.is_initialized()


def test_two_ranks_decide_the_same_one_step_later(tmp_path):
    first, second = run_on_ranks(2, votes, tmp_path)
    nothing = [0, 0, -1]
    assert first == second
    assert torch.tensor(first).tolist() == [
        nothing,  # nobody has voted before
        nothing,
        [1, 0, -1],  # rank 1 alone asked to stop at step 1
        [0, 1, -1],  # rank 0 alone asked to save at step 2
        [0, 0, 5],  # rank 0 saw step 7, rank 1 step 5
        [0, 0, 0],  # the very first step
        [1, 1, 9],  # the votes of the last step
        nothing,
    ]
