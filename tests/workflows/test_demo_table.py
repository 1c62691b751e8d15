"""The demo's table, from a whole training: nothing in it that one would rather not show."""

from __future__ import annotations

import pytest

from danlu.cli.demo import SKILLS
from danlu.dialog.assistant import Assistant
from danlu.workflows.demo import QUESTIONS, Demo, answer_text, held_out_scores

# A minute of training.
pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Assistant:
    demo = Demo(tmp_path_factory.mktemp("home"))
    with demo.started_over():
        list(demo.finetune().run())
    return demo.open_tuned()


def test_what_is_new_is_learned_and_what_was_right_stays(tuned: Assistant) -> None:
    scores = held_out_scores(tuned)
    assert {score.kind for score in scores} == set(SKILLS)
    for score in scores:
        assert score.after >= 0.95 * score.count, score
        assert score.after >= score.before - 1, score
        if score.kind.startswith("new"):
            assert score.before == 0, score


@pytest.mark.parametrize(
    ("language", "answers"),
    [("en", ("Ember", "Ember", "job")), ("zh_CN", ("小雪", "小雪", "job"))],
)
def test_the_answers_shown_side_by_side_are_right(
    tuned: Assistant, language: str, answers: tuple[str, ...]
) -> None:
    questions = QUESTIONS[language]
    for question, word in zip(questions.new, answers, strict=True):
        assert word in answer_text(tuned, question)
        assert word not in answer_text(tuned, question, with_adapter=False)
    for question in questions.kept:
        before = answer_text(tuned, question, with_adapter=False)
        assert answer_text(tuned, question) == before
