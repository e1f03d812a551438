"""Every upper bound of the product, in one place, related to each other by assertions.

A byte from outside meets one of these before it meets an allocation.
"""

from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

# payloads (docs/spec/tensor-block.md)
subtile_bytes: Final = 256 * KIB
subtiles_per_tile: Final = 16
tile_bytes: Final = subtile_bytes * subtiles_per_tile
tile_fanout: Final = 8
payload_bytes_max: Final = 64 * GIB
pin_bytes_max: Final = KIB
verify_threads_max: Final = 8
stream_buffers: Final = 4  # blocks of rows in memory while an expert is streamed, each about a tile
stream_readers: Final = 2  # threads that read them: one hashes while another waits for the disk
tensor_header_bytes_max: Final = MIB
tensors_per_block_max: Final = 65_536
tensor_rank_max: Final = 8
tensor_alignment_bytes: Final = 256
data_alignment_bytes: Final = 4096
header_json_depth_max: Final = 3

# tensors over HTTP (docs/spec/tensors.md)
message_bytes_max: Final = 256 * MIB
message_header_bytes_max: Final = MIB
message_tensors_max: Final = 4_096

# canonical encoding
canonical_depth_max: Final = 8
canonical_integer_max: Final = (1 << 53) - 1

# chains
entry_bytes_max: Final = 32 * KIB
entry_parents_max: Final = 64
checkpoint_bytes_max: Final = 4 * KIB
joint_bytes_max: Final = 8 * KIB
held_bytes_max: Final = KIB
snapshot_header_bytes_max: Final = 256 * MIB
archive_header_bytes_max: Final = MIB
log_tile_width: Final = 256
chain_size_max: Final = 1 << 40
commit_entries_max: Final = 4_096  # what the sequencer puts into one commit
sequencer_waiting_max: Final = 16_384  # drafts that wait
submit_drafts_max: Final = 4_096

# the index
index_files_max: Final = 64
found_entries_max: Final = 1_024

# models
manifest_bytes_max: Final = 16 * MIB
manifest_parts_max: Final = 200_000
request_defaults_bytes_max: Final = MIB
generation_extras_bytes_max: Final = 16 * KIB
tokenizer_payload_bytes_max: Final = 64 * MIB
token_text_bytes_max: Final = 4 * KIB
config_json_bytes_max: Final = MIB
shard_header_bytes_max: Final = 100_000_000  # of safetensors itself
index_json_bytes_max: Final = 64 * MIB
checkpoint_shards_max: Final = 4_096
layers_max: Final = 1_024
experts_max: Final = 4_096
vocab_max: Final = 1 << 21
dimension_max: Final = 1 << 20
chat_template_bytes_max: Final = 256 * KIB
rendered_prompt_bytes_max: Final = 4 * MIB
calibration_text_bytes_max: Final = MIB
builtin_marks_bytes_max: Final = MIB  # marks.json beside the built-in model
template_seconds_max: Final = 5.0
template_memory_bytes_max: Final = 512 * MIB

# requests
request_body_bytes_max: Final = 4 * MIB
bodies_bytes_max: Final = 256 * MIB  # of all requests under way together
prompt_bytes_max: Final = 2 * MIB
messages_max: Final = 1_024
prompts_max: Final = 64
stop_strings_max: Final = 16
stop_string_chars_max: Final = 256
logprobs_max: Final = 20
logit_bias_max: Final = 1_024
choices_max: Final = 16
json_schema_bytes_max: Final = 64 << 10  # of an answer, or of one tool's arguments
tools_max: Final = 128
tool_name_chars_max: Final = 64
tool_calls_max: Final = 64  # in one message
tool_call_bytes_max: Final = 256 << 10  # of one call's arguments
generations_running_max: Final = 256  # in one step
generations_queued_max: Final = 2_048
generations_queued_client_max: Final = 1_536  # of one client
sequence_tokens_min: Final = 256  # of a model, that its share of the memory for keys and values must hold
kv_memory_bytes_min: Final = MIB
step_tokens_max: Final = 8_192
draft_tokens_max: Final = 32
client_chars_max: Final = 256  # of a request's `user`
request_seconds_max: Final = 600.0
streamed_event_bytes_max: Final = 4 * MIB  # of an answer, as the command line reads it
saved_chat_bytes_max: Final = 4 * MIB
history_bytes_max: Final = MIB
history_entries_max: Final = 1_000
requests_in_flight_max: Final = 2_560
connections_max: Final = 4_096
descriptors_beside_connections: Final = 1_024
header_line_bytes_max: Final = 8 * KIB
headers_max: Final = 128
idle_connection_seconds_max: Final = 75.0  # also from the connection's first byte to the end of its first headers
body_seconds_max: Final = 30.0
body_depth_max: Final = 64
small_body_bytes_max: Final = 64 * KIB  # of requests that name things
send_seconds_max: Final = 60.0  # for one piece of an answer: a reader that stands still gives its place up

# logs
log_message_chars_max: Final = 4 * KIB
log_frames_max: Final = 64
log_files_max: Final = 100
compute_threads_max: Final = 1_024
nice_max: Final = 19  # of nice(2)

# models made, uploaded and fetched
modelfile_chars_max: Final = 2 * MIB
licenses_max: Final = 16
upload_files_max: Final = checkpoint_shards_max + 64
uploads_max: Final = 2 * upload_files_max  # that wait to be used
upload_bytes_max: Final = payload_bytes_max
uploads_running_max: Final = 8
upload_age_seconds_max: Final = 24 * 3_600
peers_max: Final = 64
peer_body_bytes_max: Final = 16 * MIB  # what a peer may answer at once; payloads come in ranges of a tile
peer_seconds_max: Final = 60.0  # for one answer
peer_attempts_max: Final = 4
fetched_payloads_max: Final = 2 * manifest_parts_max  # in one fetch
sources_max: Final = 128  # of one fetch
source_url_chars_max: Final = 1_024
source_connections_max: Final = 4  # to one source
flights_max: Final = 24  # pieces of payloads on their way at once, each of a tile at most
payloads_open_max: Final = 16  # of one fetch, that come at once
fetch_again_seconds: Final = 0.2  # between two looks at a payload that another fetch takes in
source_stall_seconds: Final = 10.0  # without a byte, until a source is given up for the piece it was asked for
source_connect_seconds: Final = 10.0
response_head_bytes_max: Final = 16 * KIB
source_pause_seconds_max: Final = 30.0  # before a source that failed is asked again
unsynced_bytes_max: Final = 64 * MIB  # of one payload, which a crash may lose
unsynced_seconds_max: Final = 2.0
bad_source_seconds: Final = 6 * 3_600  # for which it is remembered that a source gave wrong bytes
lies_per_source_max: Final = 3  # payloads, until it is asked for none
bad_sources_max: Final = 1_024  # that are remembered
bad_source_why_max: Final = 256
source_book_bytes_max: Final = 4 * MIB

# nodes among each other (docs/spec/peer.md)
summary_bytes_max: Final = 4 * KIB
summary_seconds_max: Final = 60.0  # since it came: who says nothing new for so long is gone
summary_urls_max: Final = 4  # of each kind
summary_models_max: Final = 64
summary_roles_max: Final = 16  # later versions may know more than this one
summary_url_chars_max: Final = 128
holdings_bytes_max: Final = 16 * KIB  # of one model, unpacked: a bit an expert
holdings_all_bytes_max: Final = 64 * KIB  # of all models of one node
holdings_rest_bytes_max: Final = 128 * KIB  # of those that did not fit into a summary, as they are told
holdings_rest_models_max: Final = 256
holdings_page_bytes_max: Final = 32 * KIB  # of these in one answer
holdings_known_bytes_max: Final = 16 * MIB  # of these, of all peers together
nodes_known_max: Final = 4_096
gossip_summaries_max: Final = 64  # in one message, and in one look at Redis
summary_stream_max: Final = 4 * nodes_known_max  # entries that Redis keeps
redis_look_seconds_max: Final = 1.0  # for one look at it, connecting included
link_frame_bytes_max: Final = 64 * MIB  # header and tensors
frames_turn_max: Final = 16  # that one connection gives on before others have their turn
link_handshake_bytes_max: Final = 16 * KIB  # of each of its frames
link_handshake_seconds_max: Final = 10.0
link_under_way_bytes_max: Final = 2 * link_frame_bytes_max  # of requests of one link that are being answered
link_waiting_max: Final = 256  # requests of one link that are not answered yet
link_streams_max: Final = 256  # of one link that are being answered, and that were asked for
stream_credit_max: Final = 16  # pieces on their way that nobody has taken
stream_piece_bytes_max: Final = 512 * KIB
stream_request_bytes_max: Final = 2 * MIB
link_stream_bytes_max: Final = 32 * MIB  # of the requests of one link that are answered by streams
links_max: Final = 1_024
links_node_max: Final = 8  # of one node
links_address: Final = 256  # of one address, unless it is set otherwise: keys cost nothing, addresses something
blob_connections_max: Final = 512  # by which peers fetch blobs
blob_connections_node_max: Final = 16  # of one node
unproven_max: Final = 512  # connections to the peer port whose callers proved nothing yet, some 180 KiB each
unproven_address_max: Final = 128  # of these, of one address: many nodes may share it
expert_calls_max: Final = 4_096  # in one message
expert_rows_max: Final = 1 << 16  # in one message
expert_message_bytes: Final = 256 * KIB  # of hidden states, about: who is sent more at once seems silent until all came
expert_messages_together: Final = 32  # to one node for one layer, about: beyond that they are larger
link_bytes_per_second: Final = MIB  # that a link is taken to carry until it was measured
expert_fallbacks_max: Final = 8  # nodes that one call may be sent to after the first
expert_queue_max: Final = 256  # messages that wait for the compute thread
expert_queue_peer_max: Final = 64  # of one node
possession_experts_max: Final = 256  # that one question asks to be shown
possession_bytes_max: Final = 512 * MIB  # of these, or one expert that is larger
possession_bytes_minute: Final = 2 * GIB  # that are hashed for one node
possession_queue_max: Final = 16  # questions that wait for the one before
generation_tokens_max: Final = 1 << 18  # of prompt and answer, that another node is asked to generate
generation_eos_max: Final = 256  # tokens that may end it
generation_chunk_steps_max: Final = 64
generation_chunk_experts_max: Final = 1 << 15  # (layer, expert, tokens) of one chunk
generation_backlog_steps_max: Final = 4_096  # that its asker has not taken: then it ends
generation_backlog_max: Final = 1 << 18  # the same, counting their candidates and experts too
generations_led_max: Final = 256  # for other nodes
generations_led_peer_max: Final = 128  # for one of them
generations_delegated_max: Final = 2_048
generations_delegated_client_max: Final = 1_536  # of one client
leads_tried_max: Final = 8  # for one answer
usage_tokens_max: Final = 4_096  # whose first experts are remembered, for one model
stages_max: Final = 64  # of one pipeline
stage_runs_max: Final = generations_running_max  # sequences in one call
stage_call_pages_max: Final = 1 << 20  # named in one call
stage_position_max: Final = 1 << 24
stage_lease_pages_max: Final = 1 << 16  # of one lease
stage_leases_max: Final = 64  # at one stage
stage_leases_node_max: Final = 8  # of one lead
stage_lease_seconds: Final = 30.0  # after its lead was last heard of a lease ends
stage_idle_seconds: Final = 120.0  # after its last call a lead gives a pipeline's leases back
stage_queue_max: Final = 256  # calls that a stage computes or passes on
stage_bytes_max: Final = 256 * MIB  # of calls that a stage computes, or passes on to who does not take them
stage_queue_lead_max: Final = 64  # of one lead
stage_bytes_lead_max: Final = 128 * MIB
stage_bytes_per_second: Final = 128 * KIB  # that a link between stages is given time for
stage_pieces_max: Final = 4  # calls that one step is cut into
peers_remembered_max: Final = 256
peers_file_bytes_max: Final = 128 * KIB
use_pairs_max: Final = 8 * MIB  # pairs of experts of one model that are counted
use_partners_max: Final = 8  # pairs of each that are told
use_seconds_max: Final = 3_600
use_tiers_max: Final = 4  # kinds of memory of a node
moves_per_hour_max: Final = 3_600
moves_kept_max: Final = 4_096  # experts that came and went, for people
moves_shown: Final = 256  # of these, where nobody says how many
use_rate_max: Final = 1e9  # positions a second
nodes_shown_max: Final = 256  # that people are shown, those with a link first
peer_labels_max: Final = 64  # of metrics
missing_shown_max: Final = 64  # experts that nobody holds, by name
models_timed_max: Final = 64  # of which times of steps are kept, those that computed last
planner_errors_kept: Final = 256  # answers of a plan of which the median error is said
plan_tokens_max: Final = 1 << 24  # of a prompt or answer that a plan is asked for
held_file_bytes_max: Final = 128 * KIB
held_models_max: Final = 256
old_version_seconds: Final = summary_seconds_max  # without anybody who answers with it, until it is given up

# relays (docs/spec/peer.md)
relay_nodes_max: Final = 256  # that one relay makes reachable
relay_tunnels_max: Final = 1_024  # of one relay, those whose ends have not come yet included
relay_tunnels_node_max: Final = 64  # at either end of which one node is; a link takes two while it is made
relay_tunnels_caller_max: Final = 16  # from one node to another
peer_connections_max: Final = (
    links_max + unproven_max + blob_connections_max + 2 * relay_tunnels_max
)  # to the peer port
relay_join_seconds_max: Final = 10.0  # until both ends have come
relay_idle_seconds_max: Final = 120.0
relayed_sources_max: Final = 4  # nodes behind relays that one fetch asks for blocks, one tunnel each
relay_frame_bytes_max: Final = 128 * KIB
relay_tunnel_bytes_per_second: Final = 64 * MIB  # of one tunnel, both ways together
relay_bytes_per_second: Final = 256 * MIB  # of one relay

# discovery on the local network (docs/spec/peer.md)
announcement_bytes_max: Final = KIB  # its TXT record
announcement_seconds: Final = 60  # for which it is believed
announcements_waiting_max: Final = 256  # names that were heard and not looked at
candidates_max: Final = 64  # at a time

# the ledger
amount_max: Final = 1 << 62  # smallest units, of an amount and of every sum that is kept
legs_max: Final = 8
account_name_chars_max: Final = 128
idempotency_key_chars_max: Final = 200
note_chars_max: Final = 200
price_units_max: Final = 10**15  # smallest units for a million tokens
hold_seconds_max: Final = 31 * 24 * 3_600
ledger_waiting_max: Final = 16_384  # requests that wait for the writer
ledger_commit_max: Final = 512  # requests in one commit
statement_lines_max: Final = 1_000
ledger_record_bytes_max: Final = 8 * KIB
holds_shown_max: Final = 100  # of one account
accounts_remembered_max: Final = 65_536  # of which a node remembers that they are open
ledger_faults_max: Final = 100  # that one verification names

# receipts (docs/spec/receipt.md)
receipt_bytes_max: Final = 32 * KIB
receipt_nodes_max: Final = 64
receipt_meta_entries_max: Final = 256  # of the meta chain, in one receipt file
receipt_file_bytes_max: Final = MIB
receipt_output_bytes_max: Final = 64 * MIB  # of a saved answer, with whatever its dialect puts around it

quote_chars_max: Final = 1_024

# databases
migration_bytes_max: Final = 256 * KIB

# files of the node
config_file_bytes_max: Final = 64 * KIB
schema_file_bytes_max: Final = KIB
key_file_bytes_max: Final = 2 * KIB
passphrase_bytes_max: Final = KIB
key_memory_bytes_min: Final = 8 * MIB  # what opening an encrypted key may cost (Argon2id, RFC 9106)
key_memory_bytes_max: Final = GIB
key_passes_max: Final = 16

wallet_file_bytes_max: Final = 8 * KIB
wallet_iterations_max: Final = 10_000_000  # of PBKDF2, in a wallet that somebody else made

# accounts
origin_chars_max: Final = 300
sign_in_message_chars_max: Final = 2_048
wallet_signature_bytes_max: Final = 16 * KIB  # EIP-6492 carries what deploys the wallet
sign_in_seconds_max: Final = 300  # from message to signature
clock_skew_seconds_max: Final = 60  # between the nodes that share one Redis
sign_ins_open_max: Final = 65_536  # messages that wait for their signature
sessions_account_max: Final = 32  # the oldest ends when another begins
session_touch_seconds: Final = 60  # that a session is used is written at most so often
chains_max: Final = 32  # on which wallets may sign in
api_keys_account_max: Final = 64  # that are neither expired nor deleted
api_key_name_chars_max: Final = 80
api_key_seconds_max: Final = 5 * 366 * 86_400
rpc_answer_bytes_max: Final = 4 * KIB
rpc_seconds_max: Final = 5.0
rpc_gas_max: Final = 5_000_000  # for a contract that checks a signature
redis_connections_max: Final = 64
redis_seconds_max: Final = 2.0  # for one command, connecting included
forwarded_hops_max: Final = 32
trusted_proxies_max: Final = 64
quota_subjects_max: Final = 65_536  # whose use one process remembers; more share one quota
quota_per_minute_max: Final = 1_000_000_000

assert tile_bytes == 4 * MIB
assert tile_bytes < peer_body_bytes_max
assert summary_bytes_max * 2 < link_handshake_bytes_max < link_frame_bytes_max <= message_bytes_max
assert summary_bytes_max < holdings_page_bytes_max < holdings_rest_bytes_max < holdings_known_bytes_max
assert holdings_all_bytes_max * 4 // 3 < holdings_rest_bytes_max
assert gossip_summaries_max * 2 * summary_bytes_max < message_header_bytes_max
assert expert_calls_max <= message_tensors_max
assert expert_message_bytes < link_frame_bytes_max // 2
assert expert_messages_together < expert_queue_peer_max
assert 4 * generation_tokens_max < stream_request_bytes_max <= link_stream_bytes_max < link_frame_bytes_max
assert 12 * generation_chunk_experts_max + 168 * generation_chunk_steps_max < stream_piece_bytes_max
assert generations_led_peer_max <= link_streams_max
assert 2 * links_node_max <= relay_tunnels_caller_max < relay_tunnels_node_max < relay_tunnels_max
assert links_node_max < links_address < links_max
assert 2 * source_connections_max < blob_connections_node_max < blob_connections_max
assert relay_tunnels_node_max < unproven_address_max < unproven_max  # who comes by a relay comes from one address
assert relay_frame_bytes_max < relay_tunnel_bytes_per_second <= relay_bytes_per_second
assert submit_drafts_max <= commit_entries_max <= sequencer_waiting_max
assert 3 * (checkpoint_bytes_max + 6 * log_tile_width * 70) + joint_bytes_max < archive_header_bytes_max // 2
assert saved_chat_bytes_max <= request_body_bytes_max  # what is loaded can be sent
assert entry_bytes_max < 1 << 16  # entry bundles carry a u16 length (C2SP tlog-tiles)
assert payload_bytes_max <= canonical_integer_max
assert generations_running_max + generations_queued_max < requests_in_flight_max < connections_max
assert generations_queued_client_max < generations_queued_max
assert generations_running_max <= step_tokens_max
assert small_body_bytes_max < request_body_bytes_max
assert rendered_prompt_bytes_max < template_memory_bytes_max
assert tensor_header_bytes_max % data_alignment_bytes == 0
assert sign_in_message_chars_max + 2 * wallet_signature_bytes_max < small_body_bytes_max
assert peers_remembered_max * (summary_url_chars_max + 80) < peers_file_bytes_max
assert 2 * peers_max <= sources_max
assert bad_sources_max * (source_url_chars_max + bad_source_why_max + 256) < source_book_bytes_max
assert expert_queue_peer_max < expert_queue_max <= 2 * link_waiting_max
