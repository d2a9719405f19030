"""Uploads a model card to a repository of the Hugging Face hub, beside what its README says already."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rwkvclip_eval.errors import UserError, shown
from rwkvclip_eval.exchange.model_card import BEGIN, END, EVAL_RESULTS

if TYPE_CHECKING:
    from pathlib import Path

    from huggingface_hub import EvalResult, ModelCard, ModelCardData

_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")


def check_repository(repository: str) -> None:
    """Refuse what is no `owner/name`.

    Raises:
        UserError: it is none.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise UserError(f"--push-to-hub {shown(repository)}: expected OWNER/REPO of a model on the hub.")


def push_card(folder: Path, repository: str) -> str:
    """Upload the card and the `.eval_results` in `folder`, in one commit; return its address.

    The README there keeps all but what an earlier upload said between its marks, and the results in its
    metadata that this card gives anew. The repository must exist: none is made, so that nothing is published
    by a misspelt name.

    Args:
        folder: as `write_model_cards` made it.
        repository: `owner/name` of a model.

    Raises:
        UserError: the name is none, the hub refuses, or the README there is no model card.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    check_repository(repository)
    card = _loaded(folder / "README.md")
    try:
        api = HfApi()
        before = _card_there(repository)
        card = card if before is None else merged(before, card)
        files = sorted((folder / EVAL_RESULTS).glob("*.yaml"))
        content = [("README.md", str(card).encode())]
        content += [(f"{EVAL_RESULTS}/{file.name}", file.read_bytes()) for file in files]
        commit = api.create_commit(
            repository,
            [CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in content],
            commit_message="Add evaluation results of rwkvclip-eval",
        )
    except UserError:
        raise
    except Exception as error:  # HTTP library, disk and hub errors share no base class
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"Cannot upload to {repository} on the Hugging Face hub ({type(error).__name__}: {reason}). "
            "It must exist, and the login (`hf auth login`) may write to it; the card is in "
            f"{folder}."
        ) from error
    return str(commit.commit_url)


def _card_there(repository: str) -> ModelCard | None:
    """Return the card of the repository; None where it has none.

    Raises:
        UserError: its README is none that can be read.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        path = hf_hub_download(repository, "README.md")
    except LocalEntryNotFoundError:
        # The hub did not answer; a card made without what it has would replace it.
        raise
    except EntryNotFoundError:
        return None
    try:
        return _loaded(path)
    except Exception as error:  # YAML's and the library's errors share no base class
        raise UserError(
            f"The README.md of {repository} is no model card ({error}). Mend its metadata first; nothing was "
            "uploaded."
        ) from error


def _loaded(path: str | Path) -> ModelCard:
    from huggingface_hub import ModelCard

    card: ModelCard = ModelCard.load(path)
    return card


def merged(before: ModelCard, ours: ModelCard) -> ModelCard:
    """Return `before` with our results in place of those of an earlier upload."""
    data, own = _data(before), _data(ours)
    new = list(own.eval_results or ())
    replaced = {_what(result) for result in new}
    data.eval_results = [r for r in data.eval_results or () if _what(r) not in replaced] + new
    data.model_name = data.model_name or own.model_name
    data.tags = list(dict.fromkeys([*(data.tags or ()), *(own.tags or ())]))
    section = ours.text[ours.text.index(BEGIN) : ours.text.index(END) + len(END)]
    start, end = before.text.find(BEGIN), before.text.find(END)
    if 0 <= start < end:
        before.text = before.text[:start] + section + before.text[end + len(END) :]
    else:
        before.text = f"{before.text.rstrip()}\n\n{section}\n"
    return before


def _data(card: ModelCard) -> ModelCardData:
    from huggingface_hub import ModelCardData

    assert isinstance(card.data, ModelCardData)
    return card.data


def _what(result: EvalResult) -> tuple[object, ...]:
    """Return what tells a result apart from others, whatever its value."""
    facts = result.metric_args or {}
    own = (facts.get("protocol"), facts.get("task")) if isinstance(facts, dict) else ()
    return *result.unique_identifier, result.metric_type, *own
