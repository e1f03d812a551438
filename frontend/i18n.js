/* The page's words in English and Korean. Messages and hints that the node sends are shown as they come. */

import { remember, remembered } from "/preferences.js";

const en = {
  "page.title": "Blyan chat",
  "skip": "Skip to the question",
  "lang.other": "한국어",
  "lang.label": "페이지를 한국어로 보기",
  "theme.toDark": "Switch to the dark theme",
  "theme.toLight": "Switch to the light theme",
  "chat.new": "New chat",
  "chat.log": "Conversation",
  "model.pick": "Choose a model",
  "model.loading": "Connecting to the node…",
  "model.none": "No model",
  "model.parameters": "{total} parameters ({active} active)",
  "model.manifest": "manifest",
  "empty.title": "Ask, and watch the experts work",
  "empty.genesis": "This built-in model is tiny: it adds two-digit numbers and says a few words about itself, no more.",
  "empty.other": "{model} answers from the blocks that stand on this node's chain.",
  "example.1": "What is 23 + 45?",
  "example.2": "What is 58 + 17?",
  "example.3": "Who are you?",
  "prompt.label": "Your question",
  "prompt.placeholder": "Ask something…",
  "prompt.keys": "Enter sends, Shift+Enter starts a new line, Esc stops.",
  "send": "Send",
  "stop": "Stop",
  "turn.you": "You",
  "turn.waiting": "Waiting for the first word",
  "turn.stopped": "Stopped",
  "turn.length": "Cut off at the length limit",
  "turn.failed": "Not finished",
  "turn.tokens": "{count} tokens",
  "turn.rate": "{rate} tokens/s",
  "turn.experts": "{count} experts worked",
  "turn.show": "Show its experts",
  "grid.title": "Experts",
  "grid.label": "Expert blocks, one row per layer",
  "grid.layer": "layer {layer}",
  "grid.trunk": "trunk",
  "grid.loading": "Reading the blocks…",
  "grid.verified": "{verified} of {total} expert blocks verified against the chain (checkpoint size {size}, root {root})",
  "grid.corrupt": "{count} corrupt",
  "grid.trunkBad": "Trunk: {verified} of {total} parts verified",
  "grid.idle": "A dot grows with the share of tokens that an expert worked on.",
  "grid.answer": "Dots: share of tokens in the latest answer.",
  "grid.earlier": "Dots: share of tokens in an earlier answer.",
  "grid.inspect": "Point at a cell, or move there with Tab and the arrow keys.",
  "grid.failed": "The block states could not be read.",
  "state.verified": "verified",
  "state.unverified": "not yet checked",
  "state.corrupt": "corrupt",
  "state.worked": "worked",
  "block.part": "Part",
  "block.payload": "Payload",
  "block.bytes": "Size",
  "block.state": "State",
  "block.tokens": "Tokens here",
  "block.file": "File",
  "block.subtiles": "Bad subtiles",
  "cell.label": "{name}: {state}, {tokens} tokens",
  "cell.name": "layer {layer}, expert {expert}",
  "experts.open": "Expert map",
  "story.open": "Story",
  "story.open.label": "The model's story: origin, licence, versions",
  "grid.open": "A click or Enter checks the block's proof.",
  "block.entry": "Entry",
  "block.entry.at": "number {index}",
  "error.title": "This did not work",
  "error.unreachable": "The node cannot be reached",
  "error.unreachable.message": "Nothing was lost. Check that the node is still running, then try again.",
  "error.block_corrupt": "A block of this model is damaged",
  "error.refused": "This model is not served",
  "error.broken": "The answer broke off",
  "error.broken.message": "The connection ended before the answer did. What arrived is kept.",
  "error.busy": "The node is busy",
  "error.retryAfter": "Free again in about {seconds} s.",
  "error.none": "This node has no model",
  "error.none.message": "Import one with: blyan model import DIR",
  "retry": "Try again",
  "dismiss": "Close",
};

const ko = {
  "page.title": "Blyan 채팅",
  "skip": "질문 입력란으로 건너뛰기",
  "lang.other": "English",
  "lang.label": "Show this page in English",
  "theme.toDark": "어두운 테마로 바꾸기",
  "theme.toLight": "밝은 테마로 바꾸기",
  "chat.new": "새 대화",
  "chat.log": "대화",
  "model.pick": "모델 고르기",
  "model.loading": "노드에 연결하는 중…",
  "model.none": "모델 없음",
  "model.parameters": "매개변수 {total}개 (활성 {active}개)",
  "model.manifest": "매니페스트",
  "empty.title": "질문하고, 전문가들이 일하는 모습을 보세요",
  "empty.genesis": "이 내장 모델은 아주 작습니다. 두 자리 수 덧셈과 자기소개 몇 마디만 할 수 있습니다.",
  "empty.other": "{model} 모델은 이 노드의 체인에 적힌 블록으로 답합니다.",
  "example.1": "23 더하기 45는?",
  "example.2": "58 더하기 17은?",
  "example.3": "너는 누구야?",
  "prompt.label": "질문",
  "prompt.placeholder": "무엇이든 물어보세요…",
  "prompt.keys": "Enter로 보내기, Shift+Enter로 줄 바꿈, Esc로 중지.",
  "send": "보내기",
  "stop": "중지",
  "turn.you": "나",
  "turn.waiting": "첫 단어를 기다리는 중",
  "turn.stopped": "중지됨",
  "turn.length": "길이 제한에서 잘림",
  "turn.failed": "끝나지 않음",
  "turn.tokens": "토큰 {count}개",
  "turn.rate": "초당 {rate}토큰",
  "turn.experts": "전문가 {count}개가 일함",
  "turn.show": "이 답의 전문가 보기",
  "grid.title": "전문가",
  "grid.label": "전문가 블록, 층마다 한 줄",
  "grid.layer": "층 {layer}",
  "grid.trunk": "몸통",
  "grid.loading": "블록을 읽는 중…",
  "grid.verified": "전문가 블록 {total}개 중 {verified}개가 체인과 대조해 확인됨 (체크포인트 크기 {size}, 루트 {root})",
  "grid.corrupt": "{count}개 손상됨",
  "grid.trunkBad": "몸통: {total}개 중 {verified}개 확인됨",
  "grid.idle": "전문가가 처리한 토큰의 비율만큼 점이 커집니다.",
  "grid.answer": "점: 최근 답에서 처리한 토큰의 비율.",
  "grid.earlier": "점: 이전 답에서 처리한 토큰의 비율.",
  "grid.inspect": "칸을 가리키거나 Tab과 화살표 키로 옮겨 가 보세요.",
  "grid.failed": "블록 상태를 읽지 못했습니다.",
  "state.verified": "확인됨",
  "state.unverified": "아직 확인 안 됨",
  "state.corrupt": "손상됨",
  "state.worked": "일함",
  "block.part": "부분",
  "block.payload": "페이로드",
  "block.bytes": "크기",
  "block.state": "상태",
  "block.tokens": "처리한 토큰",
  "block.file": "파일",
  "block.subtiles": "손상된 서브타일",
  "cell.label": "{name}: {state}, 토큰 {tokens}개",
  "cell.name": "층 {layer}, 전문가 {expert}",
  "experts.open": "전문가 지도",
  "story.open": "이야기",
  "story.open.label": "모델의 이야기: 출처, 라이선스, 버전",
  "grid.open": "클릭하거나 Enter를 누르면 블록의 증명을 확인합니다.",
  "block.entry": "항목",
  "block.entry.at": "{index}번",
  "error.title": "요청을 처리하지 못했습니다",
  "error.unreachable": "노드에 연결할 수 없습니다",
  "error.unreachable.message": "잃은 것은 없습니다. 노드가 실행 중인지 확인한 뒤 다시 시도하세요.",
  "error.block_corrupt": "이 모델의 블록 하나가 손상되었습니다",
  "error.refused": "이 모델은 제공되지 않습니다",
  "error.broken": "답이 중간에 끊겼습니다",
  "error.broken.message": "답이 끝나기 전에 연결이 끊겼습니다. 받은 부분은 남아 있습니다.",
  "error.busy": "노드가 바쁩니다",
  "error.retryAfter": "약 {seconds}초 뒤에 다시 가능합니다.",
  "error.none": "이 노드에는 모델이 없습니다",
  "error.none.message": "다음 명령으로 가져오세요: blyan model import DIR",
  "retry": "다시 시도",
  "dismiss": "닫기",
};

const dictionaries = { en, ko };

function preferred() {
  const saved = remembered("lang");
  if (saved !== null && Object.hasOwn(dictionaries, saved)) return saved;
  return navigator.language.toLowerCase().startsWith("ko") ? "ko" : "en";
}

let current = preferred();

export function language() {
  return current;
}

export function toggleLanguage() {
  current = current === "en" ? "ko" : "en";
  remember("lang", current);
}

/**
 * More words, of a part of the page that is loaded when it is needed.
 * @param {Record<string, Record<string, string>>} words by language, then by key
 */
export function addWords(words) {
  Object.assign(en, words.en);
  Object.assign(ko, words.ko);
}

/** The words for `key`, with `{name}` replaced by `values.name`. A missing key is our mistake, and throws. */
export function t(key, values = {}) {
  const words = dictionaries[current][key];
  if (words === undefined) throw new Error(`no words for ${key} in ${current}`);
  return words.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

/** 8100000 as "8.1M" or "810만". */
export function compactNumber(value) {
  return new Intl.NumberFormat(current, { notation: "compact", maximumFractionDigits: 1 }).format(value);
}

/** Bytes in binary units: "864 KiB". */
export function byteSize(bytes) {
  const units = ["B", "KiB", "MiB", "GiB"];
  const step = Math.min(units.length - 1, bytes > 0 ? Math.floor(Math.log2(bytes) / 10) : 0);
  const value = new Intl.NumberFormat(current, { maximumFractionDigits: 1 }).format(bytes / 1024 ** step);
  return `${value} ${units[step]}`;
}
