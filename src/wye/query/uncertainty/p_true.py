"""P(True): the model that answered says whether its own answer is right.

Scores an answer after generation, on the probabilities of two labels; nothing is learned. Kadavath
et al., Language Models (Mostly) Know What They Know, arXiv 2207.05221, section 3: the question, the
proposed answer, other sampled answers to compare with where there are any, and then

    score = P(label of true) / (P(label of true) + P(label of false))

The wording of the prompt is ours and is a parameter.
"""

from __future__ import annotations

import numpy as np

from wye.query.chat_models.base import ChatModel, Message
from wye.query.policies.judging import Answer, Judge
from wye.query.policy import PolicyError

PROMPT = (
    "Question: {question}\n{samples}Proposed answer: {answer}\n\n"
    "Is the proposed answer correct? Reply with {true} or {false} only."
)
_MOST_SAMPLES = 8


class PTrueJudge(Judge):
    """U6: probability that a chat model gives to an answer's being right.

    Args:
        model: the one that answered, or another.
        labels: what it says of a right and of a wrong answer.
        prompt: with the fields question, samples, answer, true and false.
        show_samples: up to 8 of the answer's samples are shown as brainstormed ideas.
        cost: USD of one judgement.
        seconds: of one judgement.

    Raises:
        PolicyError: not two different labels, or a prompt without question or answer.
    """

    name = "p-true"

    def __init__(
        self,
        model: ChatModel,
        *,
        labels: tuple[str, str] = ("yes", "no"),
        prompt: str = PROMPT,
        show_samples: bool = True,
        cost: float = 0.0,
        seconds: float = 0.0,
    ) -> None:
        if len(labels) != 2 or not all(labels) or labels[0] == labels[1]:
            raise PolicyError(
                f"labels={labels!r}, expected two different words, the true one first"
            )
        if "{question}" not in prompt or "{answer}" not in prompt:
            raise PolicyError("the prompt of p-true needs the fields {question} and {answer}")
        self.model, self.labels, self.prompt = model, labels, prompt
        self.show_samples, self.cost, self.seconds = show_samples, cost, seconds

    def messages(self, text: str, answer: Answer) -> list[Message]:
        """The chat that the model is asked to continue with a label."""
        shown = answer.samples[:_MOST_SAMPLES] if self.show_samples else ()
        ideas = "".join(f"- {sample.strip()}\n" for sample in shown)
        fields = {
            "question": text.strip(),
            "samples": f"Possible answers:\n{ideas}" if ideas else "",
            "answer": answer.text.strip(),
            "true": self.labels[0],
            "false": self.labels[1],
        }
        return [{"role": "user", "content": self.prompt.format(**fields)}]

    def score(self, text: str, answer: Answer) -> float | None:
        """P(true) over the two labels.

        Raises:
            ChatModelError: the model cannot score given labels.
        """
        said = self.model.label_log_probabilities(self.messages(text, answer), self.labels)
        return float(1.0 / (1.0 + np.exp(np.clip(said[1] - said[0], -700.0, 700.0))))
