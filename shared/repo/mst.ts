/** The record tree of a repo, a Merkle search tree, walked whole (spec: repository, "MST Structure"). */
import { Cid, CidError, parseCid } from './cid.ts'
import { decodeNode, keyLayer, MstError, type MstNode, malformed } from './mst-node.ts'

/** Where nodes are found by the text of their CID, already checked against it: a Map will do. */
export interface Blocks {
  get(cid: string): Uint8Array | undefined
}

/**
 * Yields every record of a whole tree in the order of keys. All rules are checked on the way, the
 * layer of every key among them: what ends without an error is a canonical tree. Memory is that of
 * the nodes from the root down to where it stands. Throws MstError.
 */
export function* walk(
  root: Cid | string,
  blocks: Blocks,
): Generator<{ key: string; cid: Cid }, void, undefined> {
  const top = loadRoot(root, blocks)
  if (top === null) return
  const path: { node: Layered; index: number }[] = [{ node: top, index: 0 }]
  let last = ''
  for (let frame = path.at(-1); frame; frame = path.at(-1)) {
    const { node, index } = frame
    frame.index = index + 1
    // Even steps are subtrees, odd ones the keys between them.
    if (index % 2 === 1) {
      const [key, cid] = [node.keys[index >> 1], node.values[index >> 1]]
      if (key === undefined || cid === undefined) {
        path.pop()
        continue
      }
      if (key <= last) throw malformed('keys out of order')
      last = key
      yield { key, cid }
      continue
    }
    const tree = node.trees[index >> 1]
    if (tree) path.push({ node: load(tree, node.layer - 1, blocks), index: 0 })
  }
}

interface Layered extends MstNode {
  layer: number
}

/** The root, whose first key tells the layer; null for the one empty tree. */
function loadRoot(root: Cid | string, blocks: Blocks): Layered | null {
  const node = fetchNode(asCid(root), blocks)
  const [first] = node.keys
  if (first !== undefined) return onLayer(node, keyLayer(first))
  if (node.trees[0]) throw malformed('a root without keys above a subtree')
  return null
}

function load(tree: Cid, layer: number, blocks: Blocks): Layered {
  const node = fetchNode(tree, blocks)
  if (node.keys.length === 0 && node.trees[0] === null) {
    throw malformed('an empty node below another')
  }
  return onLayer(node, layer)
}

function fetchNode(cid: Cid, blocks: Blocks): MstNode {
  return decodeNode(blockOf(cid, blocks))
}

/** The bytes of a node. Throws MstError when they are missing. */
export function blockOf(cid: Cid, blocks: Blocks): Uint8Array {
  const bytes = blocks.get(cid.toString())
  if (bytes === undefined) throw new MstError('missing-block', `the block ${cid} is missing`)
  return bytes
}

/** A node all of whose keys are on its layer. */
function onLayer(node: MstNode, layer: number): Layered {
  for (const key of node.keys) {
    if (keyLayer(key) !== layer) throw malformed('a key on a layer that is not its own')
  }
  if (layer === 0 && node.trees.some((tree) => tree !== null)) {
    throw malformed('a subtree below layer 0')
  }
  return { ...node, layer }
}

/** A CID, or the one that a text is. Throws MstError. */
export function asCid(cid: Cid | string): Cid {
  if (cid instanceof Cid) return cid
  try {
    return parseCid(cid)
  } catch (cause) {
    if (!(cause instanceof CidError)) throw cause
    throw new MstError('op-mismatch', 'an op or a root whose cid is none', { cause })
  }
}
