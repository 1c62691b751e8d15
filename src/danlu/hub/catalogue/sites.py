"""Where published models are downloaded from: Hugging Face and ModelScope, by their public API.

Their libraries are not needed, their variables are heeded: HF_ENDPOINT, HF_HUB_OFFLINE,
MODELSCOPE_ENDPOINT, MODELSCOPE_DOMAIN, USE_MODELSCOPE_HUB. Bytes are not downloaded through the
libraries, because huggingface_hub (2.4) begins a file anew in each process and compares no digest:
after a cut, gigabytes would come twice. No torch here.
"""

from __future__ import annotations

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from danlu.errors import EnvironmentFault, UsageError
from danlu.files.committed import MANIFEST
from danlu.files.download import fetch
from danlu.files.home import is_rented
from danlu.language import _, chosen_language
from danlu.reasons import reason_of

Source = Literal["auto", "huggingface", "modelscope"]
# What a model folder is made of; pictures and other frameworks' weights are left where they are.
_WANTED = re.compile(r"[\w-][\w.-]*\.(json|safetensors|txt|jinja|md)|LICENSE")
_HEX = {"sha256": re.compile("[0-9a-f]{64}"), "git": re.compile("[0-9a-f]{40}")}


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of a published model.

    digest: of its content, as sha256 or as git names it: sha1 over "blob SIZE\\0" and the content.
    """

    name: str
    address: str
    size: int
    algorithm: Literal["sha256", "git"]
    digest: str


class Site(ABC):
    """A hub that models are on. address: without a slash at its end."""

    name: str
    source: Source

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        if not re.match("https?://[^/]", self.address):
            raise UsageError(
                _("{address} is no address of a hub.").format(address=address),
                why=_("It begins neither with https:// nor with http://."),
                fix=_("Correct or unset the variable that names it."),
            )

    def listing(self, repository: str) -> tuple[RemoteFile, ...]:
        """List a model's files with their digests. Raises EnvironmentFault."""
        address = self._listing_address(repository)
        answer = fetch(address)
        try:
            files = tuple(
                file
                for file in self._files_in(json.loads(answer), repository)
                if _WANTED.fullmatch(file.name) and file.name != MANIFEST
            )
            names = [file.name for file in files]
            if "config.json" not in names or len({*names}) != len(names):
                raise ValueError(_("no config.json, or a name twice"))
            for file in files:
                _check(file)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
            raise EnvironmentFault(
                _("{address} cannot be read.").format(address=address),
                why=_("The answer is not the list of files of a model: {reason}.").format(
                    reason=reason_of(fault)
                ),
                fix=_("Check the network (a login page?), or take another source."),
            ) from fault
        return files

    @abstractmethod
    def _listing_address(self, repository: str) -> str: ...

    @abstractmethod
    def _files_in(self, answer: Any, repository: str) -> Iterator[RemoteFile]: ...


class HuggingFace(Site):
    """Hugging Face or a mirror of it; sizes and digests come with `blobs=true`."""

    name = "Hugging Face"
    source = "huggingface"

    def listing(self, repository: str) -> tuple[RemoteFile, ...]:
        """List a model's files, unless the user forbids it."""
        if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
            raise EnvironmentFault(
                _("{name} is not asked.").format(name=self.name),
                why=_("{variable} is set.").format(variable="HF_HUB_OFFLINE"),
                fix="unset HF_HUB_OFFLINE",
            )
        return super().listing(repository)

    def _listing_address(self, repository: str) -> str:
        return f"{self.address}/api/models/{repository}/revision/main?blobs=true"

    def _files_in(self, answer: Any, repository: str) -> Iterator[RemoteFile]:
        # The commit, not the branch: files that change meanwhile do not mix.
        commit = answer["sha"]
        for entry in answer["siblings"]:
            name, lfs = entry["rfilename"], entry.get("lfs")
            yield RemoteFile(
                name=name,
                address=f"{self.address}/{repository}/resolve/{quote(commit)}/{quote(name)}",
                size=entry["size"],
                algorithm="sha256" if lfs else "git",
                digest=lfs["sha256"] if lfs else entry["blobId"],
            )


class ModelScope(Site):
    """ModelScope; its list of files holds the sha256 of each."""

    name = "ModelScope"
    source = "modelscope"

    def _listing_address(self, repository: str) -> str:
        query = "Revision=master&Recursive=True"
        return f"{self.address}/api/v1/models/{repository}/repo/files?{query}"

    def _files_in(self, answer: Any, repository: str) -> Iterator[RemoteFile]:
        base = f"{self.address}/api/v1/models/{repository}/repo"
        for entry in answer["Data"]["Files"]:
            if entry["Type"] != "blob":
                continue
            path = entry["Path"]
            yield RemoteFile(
                name=path,
                address=f"{base}?Revision=master&FilePath={quote(path, safe='')}",
                size=entry["Size"],
                algorithm="sha256",
                digest=entry["Sha256"],
            )


def sites_of(source: Source) -> list[Site]:
    """List the hubs to ask, the preferred one first.

    auto: both; first the one that the environment names, else ModelScope where Chinese is spoken or
    on a machine of AutoDL, else Hugging Face.
    """
    sites: list[Site] = []
    if source != "modelscope":
        sites.append(HuggingFace(os.environ.get("HF_ENDPOINT") or "https://huggingface.co"))
    if source != "huggingface":
        sites.append(ModelScope(_modelscope_address()))
    if source == "auto" and _prefers_modelscope():
        sites.reverse()
    return sites


def _modelscope_address() -> str:
    endpoint = os.environ.get("MODELSCOPE_ENDPOINT")
    # The older variable holds a host's name.
    domain = os.environ.get("MODELSCOPE_DOMAIN")
    if not endpoint and domain:
        endpoint = domain if "://" in domain else f"https://{domain}"
    return endpoint or "https://www.modelscope.cn"


def _prefers_modelscope() -> bool:
    environment = os.environ
    if environment.get("USE_MODELSCOPE_HUB", "").lower() in ("1", "true"):
        return True
    if environment.get("HF_ENDPOINT"):
        return False
    named = environment.get("MODELSCOPE_ENDPOINT") or environment.get("MODELSCOPE_DOMAIN")
    return bool(named) or chosen_language() == "zh_CN" or is_rented()


def _check(file: RemoteFile) -> None:
    if type(file.size) is not int or file.size < 0:
        raise ValueError(f"size of {file.name}")
    if not isinstance(file.digest, str) or not _HEX[file.algorithm].fullmatch(file.digest):
        raise ValueError(f"digest of {file.name}")
