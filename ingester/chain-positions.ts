/**
 * Whether the position that a frame claims can be believed. Nobody signs it: one flipped bit would
 * move ours past frames that were never read, or have all true ones refused. Pure.
 */

/** A jump this far, half an hour of the network, is believed when the next frame confirms it. */
export const farAhead = 1_000_000

export type Claim =
  /** It is the position now. */
  | 'new'
  /** Its frame is taken, the position stays: too far ahead, and nothing else says so. */
  | 'held'
  /** Its frame is taken, the position stays: what claimed to be further on was wrong, or came too early. */
  | 'corrects'
  /** Not above what was read on this connection. */
  | 'back'

export interface Positions {
  claim(seq: number, options?: { jumpIsKnown: boolean }): Claim
  /** The newest that is believed. */
  readonly last: number | null
}

/** `cursor`: the durable position that the connection began after. */
export function createPositions(cursor: number | null): Positions {
  let last = cursor
  /** The one before `last`: what comes between them was jumped over. */
  let floor = cursor
  let held: number | null = null

  const believe = (seq: number): Claim => {
    floor = last ?? seq
    last = seq
    held = null
    return 'new'
  }
  return {
    claim(seq, { jumpIsKnown } = { jumpIsKnown: false }) {
      if (last === null || floor === null || jumpIsKnown) return believe(seq)
      if (seq > last + farAhead && (held === null || seq <= held || seq > held + farAhead)) {
        held = seq
        return 'held'
      }
      if (seq > last) return believe(seq)
      if (seq === last || seq <= floor) return 'back'
      last = seq
      return 'corrects'
    },
    get last() {
      return last
    },
  }
}
