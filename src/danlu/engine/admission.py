"""What the engine takes: token ids that the model has, in a context that prompt and answer fit.

The one place that knows these limits: the engine asks it for every request, and the server before
it gives one to the engine, so that a refusal has a status of its own.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from danlu.engine.request import Request
from danlu.errors import DataError, UsageError
from danlu.language import _


class UnknownTokens(DataError):
    """Token ids that the model does not have. field: where they were given."""

    def __init__(self, field: str, vocab_size: int) -> None:
        self.field = field
        super().__init__(
            _("{field} holds token ids that the model does not have.").format(field=field),
            why=_("Ids go from 0 to {highest}: vocab_size in config.json is {size}.").format(
                highest=vocab_size - 1, size=vocab_size
            ),
            fix=_("Use the tokenizer.json that came with this model."),
        )


class ContextExceeded(UsageError):
    """A prompt and an answer that are longer than the context together; counted in tokens."""

    def __init__(self, prompt: int, answer: int, context: int) -> None:
        self.prompt, self.answer, self.context = prompt, answer, context
        left = context - prompt
        super().__init__(
            _("Prompt and answer do not fit into the model's context."),
            why=_(
                "The prompt has {prompt} tokens, the answer may have {answer}; "
                "there is room for {context} (max_position_embeddings, or what memory allows)."
            ).format(prompt=prompt, answer=answer, context=context),
            fix=_("Shorten the prompt, or set --max_tokens to {left} or less.").format(left=left)
            if left > 0
            else _("Shorten the prompt, or start a new conversation."),
        )


def admitted(request: Request, *, vocab_size: int, context_tokens: int) -> Request:
    """Return the request with its `max_tokens`: what was asked for, or what the context leaves.

    Nothing is ever cut off: raises UsageError for an empty prompt, UnknownTokens, ContextExceeded.
    """
    sampling = request.sampling
    if not request.prompt:
        raise UsageError(
            _("The prompt is empty."),
            why=_("The model needs at least one token to continue."),
            fix=_("Give a prompt."),
        )
    check_ids("prompt", request.prompt, vocab_size)
    check_ids("logit_bias", [token for token, _bias in sampling.logit_bias], vocab_size)
    check_ids("stop_token_ids", sampling.stop_token_ids, vocab_size)
    left = context_tokens - len(request.prompt)
    if left < (sampling.max_tokens or 1):
        raise ContextExceeded(len(request.prompt), sampling.max_tokens or 1, context_tokens)
    if sampling.max_tokens is not None:
        return request
    return replace(request, sampling=replace(sampling, max_tokens=left))


def check_ids(field: str, ids: Collection[int], vocab_size: int) -> None:
    """Raise UnknownTokens for ids outside of the vocabulary. field: where they were given."""
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        raise UnknownTokens(field, vocab_size)
