/* Words of the map by node: English, Korean. Loaded where the node has others beside it. */

/** @satisfies {Record<string, [string, string]>} */
export const nodesWords = {
  "nodes.title": ["Nodes", "노드"],
  "nodes.grid": ["Who holds each expert, one row per layer", "전문가마다 누가 가지고 있는지, 층마다 한 줄"],
  "nodes.lead": [
    "{here} of {total} experts are here. Letters say on which node each lies, a number on how many.",
    "전문가 {total}개 중 {here}개가 여기에 있습니다. 글자는 어느 노드에 있는지, 숫자는 몇 개 노드에 있는지를 뜻합니다.",
  ],
  "nodes.nobody": [
    "{count} experts are on no node that answers: what needs them fails until one is back.",
    "전문가 {count}개는 응답하는 어떤 노드에도 없습니다. 노드가 돌아올 때까지 그 전문가가 필요한 답은 실패합니다.",
  ],
  "nodes.plan": ["{plan}: {rate} tokens/s{off}, the first after {first} s.", "{plan}: 초당 토큰 {rate}개{off}, 첫 토큰까지 {first}초."],
  "plan.local": ["This node answers by itself", "이 노드가 혼자 답합니다"],
  "plan.dynamic": ["Experts elsewhere are called", "다른 노드의 전문가를 부릅니다"],
  "plan.static_delegate": ["Another node answers", "다른 노드가 답합니다"],
  "plan.pipeline": ["Several nodes share the layers", "여러 노드가 층을 나누어 답합니다"],
  "nodes.unmeasured": ["{plan}: speed not measured yet.", "{plan}: 속도를 아직 재지 않았습니다."],
  "nodes.inspect": ["Point at a cell, or move there with Tab and the arrow keys, to see who holds it.", "칸을 가리키거나 Tab과 화살표 키로 옮겨 가면 누가 가지고 있는지 보입니다."],
  "nodes.cell": ["{name}: {holders}", "{name}: {holders}"],
  "nodes.self": ["this node", "이 노드"],
  "nodes.several": ["several nodes", "여러 노드"],
  "nodes.none": ["no node that answers", "응답하는 노드 없음"],
  "nodes.away": ["not reachable", "연결 안 됨"],
  "nodes.draining": ["draining", "비우는 중"],
  "nodes.count": ["{count} experts", "전문가 {count}개"],
  "nodes.holders": ["Held by", "가진 노드"],
  "nodes.elsewhere": ["Not here, on another node: see Nodes above.", "여기에 없고 다른 노드에 있습니다. 위의 ‘노드’를 보세요."],
  "state.elsewhere": ["on another node", "다른 노드에 있음"],
};
