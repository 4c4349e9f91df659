/** From a stream of CAR bytes to blocks whose hashes are proved, and a commit whose signature is. */
import { CarError, readCar } from '../shared/repo/car.ts'
import type { Cid } from '../shared/repo/cid.ts'
import { KeyError, parseDidKey, verifySignature } from '../shared/repo/signature.ts'
import type { Blocks } from './blocks.ts'
import { Failure } from './failures.ts'
import type { OpenedRepo } from './walk.ts'

/**
 * Reads a CAR to its end into `blocks` and gives its roots. Throws CarError, Failure, what the source
 * throws, and the signal's reason when that aborts while it waits for memory.
 */
export async function readBlocks(
  body: AsyncIterable<Uint8Array>,
  blocks: Blocks,
  signal: AbortSignal,
): Promise<Cid[]> {
  const { roots, blocks: found } = await readCar(body).catch((cause: unknown) => {
    // A header that is too large is no large block: it is no header.
    const isLarge = cause instanceof CarError && cause.code === 'block-too-large'
    throw isLarge ? new Failure('malformed-car', cause.message, { cause }) : cause
  })
  for await (const { cid, bytes } of found) {
    blocks.add(cid, bytes)
    const room = blocks.settle(signal)
    if (room !== null) await room
  }
  return roots
}

/** Whether the commit is signed with this key, a did:key; a key of an unknown kind signs nothing. */
export function isSignedBy(key: string, { commit, unsigned }: OpenedRepo): boolean {
  try {
    return verifySignature(parseDidKey(key), unsigned, commit.sig)
  } catch (error) {
    if (error instanceof KeyError) return false
    throw error
  }
}
