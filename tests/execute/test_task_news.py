"""A task tells what it does while it goes on."""

import pytest

from dnnflow.engines.records import Pack
from dnnflow.engines.seam import StudyContext
from dnnflow.execute import task
from dnnflow.execute.task import OutcomeSender, TaskInput, TaskNews
from tests.waiting import wait_for


def test_a_task_says_that_it_compiles_and_when_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "SEND_S", 0.01)
    told = list[TaskNews]()

    def hear(topic: str, payload: bytes) -> None:
        assert topic == task.TOPIC
        told.append(TaskNews.unpack(payload))

    given = TaskInput("run", Pack((), 0.0), StudyContext("-"), "cpu", 0.0)
    with OutcomeSender(given, "tcp://worker", hear) as sender:
        sender.tell_compiling(True)
        wait_for(lambda: told, 30, "news of compiling")
        sender.tell_compiling(False)
        wait_for(lambda: len(told) > 1, 30, "news of its end")
    assert [news.is_compiling for news in told] == [True, False]
    assert [(news.run, news.worker, news.outcomes) for news in told] == [("run", "tcp://worker", ())] * 2
