/* The shapes that the page's modules share. Read by the type checker only; nothing of it is sent to a browser. */

/** What `/v1/models` says of a model beside its id. Numbers are absent for a model that is refused. */
interface ModelFacts {
  version: string;
  family: string;
  manifest: string;
  state: "ready" | "refused";
  reason: ApiErrorBody | null;
  parameters?: number;
  active_parameters?: number;
  layers?: number;
  experts?: number;
  experts_per_token?: number;
  context_length?: number;
  license?: string | null;
}

interface ModelCard {
  id: string;
  blyan: ModelFacts;
}

interface DamageDetail {
  part?: string;
  payload?: string;
  file?: string;
  bad_subtiles?: number[];
}

interface ApiErrorBody {
  code?: string;
  type?: string;
  message?: string;
  hint?: string | null;
  detail?: DamageDetail | null;
  request_id?: string;
}

type BlockState = "verified" | "unverified" | "corrupt" | "elsewhere";

/** One line of `/network/experts`; `expert` is null for a part of the trunk. */
interface Block {
  part: string;
  layer: number | null;
  expert: number | null;
  payload: string;
  bytes: number;
  state: BlockState;
  bad_subtiles?: number[] | null;
  file?: string | null;
  entry: number | null;
  /** Whether its bytes are on this node. */
  here?: boolean;
  /** Which others say that they hold it: places in the report's nodes. */
  nodes?: number[];
}

interface BlockReport {
  blocks: Block[];
  checkpoint: { size: number; root: string };
  /** Other nodes that hold something of the model; null where the node has no peer port. */
  nodes: { node: string; reachable: boolean; draining: boolean }[] | null;
}

/** layer, expert, tokens */
type ExpertTriple = [number, number, number];

/** One chunk of a streamed answer, as far as the page reads it. */
interface ChatChunk {
  choices?: { delta?: { content?: string | null; reasoning_content?: string | null }; finish_reason?: string | null; token_ids?: number[] }[];
  usage?: { prompt_tokens: number; completion_tokens: number; cost?: Cost; receipt?: ReceiptName } | null;
  blyan?: { experts?: ExpertTriple[] };
  error?: ApiErrorBody;
}

interface ChatMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

/** What a conversation asks of the sampler; what is absent is the model's own default. */
interface SamplingSettings {
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  seed?: number;
  max_tokens?: number;
  frequency_penalty?: number;
  presence_penalty?: number;
  repetition_penalty?: number;
  stop?: string[];
}

type AnswerState = "waiting" | "streaming" | "done" | "length" | "stopped" | "failed";

/** One question or answer as it is kept. Times are milliseconds since 1970. */
interface MessageRecord {
  id: string;
  conversation: string;
  parent: string | null;
  role: "user" | "assistant";
  text: string;
  time: number;
  state?: AnswerState;
  model?: string | null;
  tokens?: number | null;
  rate?: number | null;
  thought?: string;
  fed?: number | null;
  experts?: ExpertTriple[];
  bill?: Bill | null;
}

/** A conversation without its messages. `chosen`: a message's id ("" for the beginning) → the id of the child that is shown. */
interface ConversationRecord {
  id: string;
  title: string;
  created: number;
  updated: number;
  model: string | null;
  system: string;
  sampling: SamplingSettings;
  chosen: Record<string, string>;
  deleted: number | null;
}

interface Alert {
  error: import("/api.js").ApiError;
  refused: boolean;
  retry: (() => void) | null;
}

/** A value of canonical JSON (docs/spec/canonical.md). */
type Canonical = null | boolean | number | string | Canonical[] | { [name: string]: Canonical };

/** An amount as decimal text: "0.00012345". */
interface Cost {
  amount: string;
  asset: string;
}

/** A receipt's id, and the salt that only its owner holds; both hex digits. */
interface ReceiptName {
  id: string;
  salt: string;
}

/** One receipt of an answer; an answer that was gone on with has several. */
interface ReceiptPart extends ReceiptName {
  /** The request's text as it was sent; null where it is too long to keep. */
  request: string | null;
  /** What this receipt is for: from and to which letter of the answer's text and thought. */
  text: [number, number];
  thought: [number, number];
  /** What the node said that it costs. */
  amount: string;
  /** The receipt file, once it was fetched. */
  file?: string;
}

/** What an answer cost, as far as it is known. Plain values only: it is kept with the answer. */
interface Bill extends Cost {
  /** The amount is an estimate: the answer ended before the node said. */
  isEstimate: boolean;
  receipts: ReceiptPart[];
}

/** What `/auth/session` says of a node with accounts; the last ones of somebody who is signed in. */
interface Session {
  accounts: boolean;
  signed_in: boolean;
  origin: string;
  chain_ids: number[];
  account?: string;
  address?: string;
  chain_id?: number;
  role?: "user" | "operator";
}
