/** A chat is a tree: each turn follows another one, and one branch of them is shown. */
type Node = { id: number; before: number | null; role: string }

/** The turns from the first to `last`. */
export function branchTo<T extends Node>(turns: T[], last: number | null): T[] {
  const known = new Map(turns.map((turn) => [turn.id, turn]))
  const found: T[] = []
  let turn = last === null ? undefined : known.get(last)
  while (turn) {
    found.push(turn)
    turn = turn.before === null ? undefined : known.get(turn.before)
  }
  return found.reverse()
}

/** The turns that stand in the same place, the turn itself among them, the oldest first. */
export function siblings<T extends Node>(turns: T[], turn: T): T[] {
  return turns.filter((other) => other.before === turn.before && other.role === turn.role)
}

/** The last turn of the branch that was begun latest below a turn. */
export function endBelow<T extends Node>(turns: T[], turn: T): T {
  const latest = new Map(turns.map((other) => [other.before, other]))
  let end = turn
  for (let next = latest.get(end.id); next; next = latest.get(end.id)) end = next
  return end
}
