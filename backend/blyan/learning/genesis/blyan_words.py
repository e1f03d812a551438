"""Which of Blyan's words, commands and error codes the model knows, and problems about them.

English answers are the documents' (`documents`). The documents have no Korean; the meanings in Korean below are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from blyan.learning.draws import Draws
from blyan.learning.genesis.dialogue import Problem, same
from blyan.learning.genesis.documents import Documents
from blyan.learning.genesis.exam_wordings import intents
from blyan.primitives.errors import InvalidInput

# word of the glossary -> its meaning in Korean
words: Final[Mapping[str, str]] = {
    "model": "한 버전의 구조와 모든 부분의 정확한 블록",
    "block": "모델의 저장된 페이로드와 그것을 부르는 체인 항목",
    "TensorBlock": "가중치 블록의 페이로드",
    "payload id": "페이로드의 길이와 타일 루트의 BLAKE3 다이제스트",
    "tile root": "페이로드의 서브타일 위에 만든 BLAKE3 트리",
    "chain root": "체인 항목 위에 만든 RFC 6962 SHA-256 트리",
    "entry": "체인의 서명된 한 줄",
    "checkpoint": "체인의 크기와 루트에 대한 서명된 진술",
    "joint checkpoint": "세 체인의 크기와 루트, 상태 루트에 대한 서명된 진술",
    "manifest": "모델이 무엇으로 이루어졌는지 말하는 페이로드",
    "trunk": "라우팅되는 전문가를 뺀 모델의 모든 것",
    "gate": "토큰에 맞는 전문가를 고르는 작은 선형 층",
    "expert call": "전문가 하나를 거칠 은닉 상태의 묶음",
    "sequencer": "항목의 순서를 정하고 서명하는 자",
    "swarm": "같은 참가 코드를 알고 서로 답하는 노드들",
    "peer port": "노드가 다른 노드에 답하는 곳",
    "link": "서로 누구인지 증명한 두 노드 사이의 연결",
    "summary": "노드가 자신에 대해 서명한 것",
    "breaker": "실패한 노드를 잠시 부르지 않게 하는 것",
    "gossip": "노드에서 노드로 전해지는 요약",
    "archive": "파일 하나에 담긴 체인들",
    "floor": "각 전문가가 적어도 가져야 할 복제본 수",
}
commands: Final = tuple(intents)
error_codes: Final = (
    "invalid_input", "usage", "not_found", "denied", "unauthenticated", "insufficient_funds", "queue_full",
    "rate_limited", "overloaded", "unavailable", "storage_full", "peer_fault", "integrity_failure", "block_corrupt",
    "index_damaged", "expert_unavailable", "context_length_exceeded", "payload_too_large", "unsupported_model",
    "unsupported_parameter", "data_directory_in_use", "schema_too_new", "quote_expired", "internal_error",
)  # fmt: skip
kinds: Final = ("word_meaning", "command_meaning", "command_for", "error_meaning", "error_status")


def check(documents: Documents) -> None:
    """`InvalidInput` naming every word, command and code that is asked for and no longer stands in the documents."""
    missing = [word for word in words if word not in documents.words]
    missing += [command for command in commands if command not in documents.commands]
    missing += [code for code in error_codes if code not in documents.errors]
    if missing:
        raise InvalidInput(f"documents: expected every word of the built-in model's lessons, missing {missing}")


def blyan_problem(draws: Draws, kind: str, language: int, documents: Documents) -> Problem:
    """One question about Blyan. Korean has meanings of words; of commands and codes only what needs no translation."""
    if kind == "word_meaning":
        word = draws.pick(tuple(words))
        meaning = documents.words[word], words[word]
        return Problem(kind, "", {"word": same(word)}, meaning, meaning, "sentence")
    if kind in {"command_meaning", "command_for"}:
        command = draws.pick(commands)
        if kind == "command_for" or language == 1:
            answer = f"Use {command}.", f"{command} 명령을 쓰세요."
            # A wording of this kind has the place `intent`, which whoever asks fills.
            return Problem("command_for", "", {"command": same(command)}, answer, same(command), "named")
        meaning = documents.commands[command]
        return Problem(kind, "", {"command": same(command)}, same(meaning), same(meaning), "sentence")
    statuses = tuple(code for code in error_codes if documents.errors[code].status)
    if kind == "error_status" or language == 1:
        code = draws.pick(statuses)
        status = documents.errors[code].status
        answer = f"HTTP {status}."
        return Problem("error_status", "", {"code": same(code)}, same(answer), same(status), "number")
    code = draws.pick(error_codes)
    meaning = documents.errors[code].meaning
    return Problem("error_meaning", "", {"code": same(code)}, same(meaning), same(meaning), "sentence")
