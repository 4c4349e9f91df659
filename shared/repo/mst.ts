/** The record tree of a repo, a Merkle search tree: reading, changing, inverting (spec: repository, "MST Structure"). */
import { Cid, CidError, linkOf, parseCid } from './cid.ts'
import {
  checkKey,
  decodeNode,
  encodeNode,
  keyLayer,
  MstError,
  type MstNode,
  malformed,
} from './mst-node.ts'

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
  const path: { node: Node; index: number }[] = [{ node: onLayer(top), index: 0 }]
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
    if (tree) path.push({ node: onLayer(load(tree, node.layer - 1, blocks)), index: 0 })
  }
}

/** A node all of whose keys are on its layer. */
function onLayer(node: Node): Node {
  for (const key of node.keys) {
    if (keyLayer(key) !== node.layer) throw malformed('a key on a layer that is not its own')
  }
  return node
}

// ——— A tree that can be changed, of which only the touched paths are in memory ———

interface Node {
  readonly layer: number
  readonly keys: readonly string[]
  readonly values: readonly Cid[]
  /** A node that was loaded or made, or the CID of one that was not; loading puts the one for the other. */
  readonly trees: (Node | Cid | null)[]
  /** Known for a node as it was loaded, and once it was written. */
  cid: Cid | null
}

export interface Tree {
  /** The CID of the record at this key, or null. */
  get(key: string): Cid | null
  /** Puts a record in its place and gives what was there before. */
  set(key: string, cid: Cid): Cid | null
  /** Removes a record and gives what was there, or null when there was none. */
  delete(key: string): Cid | null
  /** The root as text, and the blocks of nodes made since the last call: the caller keeps them. */
  write(): { root: string; blocks: Map<string, Uint8Array> }
}

/**
 * Opens a tree, whole or in part, for changes; without a root, an empty one. Nodes are loaded when a
 * change needs them, and a missing one is an MstError then. Of the nodes passed through, the layer
 * is checked for the keys that are touched only: a change is as good as the tree it starts from.
 */
export function openTree(root: Cid | string | null, blocks: Blocks): Tree {
  let top: Node | null = root === null ? null : loadRoot(root, blocks)

  return {
    get: (key) => find(top, key, blocks),
    set(key, cid) {
      checkKey(key)
      const before = find(top, key, blocks)
      const layer = keyLayer(key)
      top = before ? replace(top, key, cid, blocks) : insertAtRoot(top, { key, cid, layer }, blocks)
      return before
    },
    delete(key) {
      const before = find(top, key, blocks)
      if (before === null || top === null) return null
      top = remove(top, key, blocks)
      return before
    },
    write() {
      const written = new Map<string, Uint8Array>()
      const trimmed = trim(top ?? emptyNode(), blocks)
      const root = trimmed instanceof Cid ? trimmed : writeNode(trimmed, written)
      return { root: root.toString(), blocks: written }
    },
  }
}

export interface RecordOp {
  action: 'create' | 'update' | 'delete'
  /** `collection/rkey`. */
  path: string
  /** The record's CID after the commit; null for a delete. */
  cid: Cid | string | null
  /** The record's CID before the commit; null for a create. */
  prev: Cid | string | null
}

/**
 * Undoes the ops of a commit on its partial tree and gives the root, as text, that the tree had
 * before: equal to `prevData` when the commit is proven (spec: sync, "Validating Commit Operations").
 * Each op must agree with the tree: its `cid` is there, and its `prev` comes back. Throws MstError.
 */
export function invertOps(root: Cid | string, blocks: Blocks, ops: readonly RecordOp[]): string {
  if (ops.length === 0) return root.toString()
  const paths = new Set(ops.map((op) => op.path))
  if (paths.size !== ops.length) throw mismatch('two ops of one commit on one record')
  const tree = openTree(root, blocks)
  for (const op of inOrderOfInversion(ops)) invert(tree, op)
  return tree.write().root
}

/**
 * First what was deleted comes back, from the highest layer down; at last what was created goes, from
 * the lowest layer up. In any other order subtrees are merged that no proof needs to hold.
 */
function inOrderOfInversion(ops: readonly RecordOp[]): RecordOp[] {
  const step = { delete: -1, update: 0, create: 1 } as const
  const rank = ({ action, path }: RecordOp) => step[action] * (1 + keyLayer(path))
  const ranked = ops.map((op) => ({ op, rank: rank(op) }))
  return ranked.sort((a, b) => a.rank - b.rank).map(({ op }) => op)
}

function invert(tree: Tree, op: RecordOp): void {
  const cid = op.cid?.toString() ?? null
  const prev = op.prev === null ? null : asCid(op.prev)
  if ((op.action === 'delete') !== (cid === null)) throw mismatch(`${op.action} with a wrong cid`)
  if ((op.action === 'create') !== (prev === null)) throw mismatch(`${op.action} with a wrong prev`)
  const found = prev === null ? tree.delete(op.path) : tree.set(op.path, prev)
  if ((found?.toString() ?? null) !== cid)
    throw mismatch(`${op.action} that the tree does not hold`)
}

function asCid(cid: Cid | string): Cid {
  if (cid instanceof Cid) return cid
  try {
    return parseCid(cid)
  } catch (cause) {
    if (!(cause instanceof CidError)) throw cause
    throw mismatch('an op or a root whose cid is none')
  }
}

function emptyNode(): Node {
  return { layer: 0, keys: [], values: [], trees: [null], cid: null }
}

function mismatch(message: string): MstError {
  return new MstError('op-mismatch', message)
}

function fetchNode(cid: Cid, blocks: Blocks): MstNode {
  const bytes = blocks.get(cid.toString())
  if (bytes === undefined) throw new MstError('missing-block', `the block ${cid} is missing`)
  return decodeNode(bytes)
}

/** The root, whose first key tells the layer; null for the one empty tree. */
function loadRoot(root: Cid | string, blocks: Blocks): Node | null {
  const cid = asCid(root)
  const node = fetchNode(cid, blocks)
  const [first] = node.keys
  if (first !== undefined) return placed(node, keyLayer(first), cid)
  if (node.trees[0]) throw malformed('a root without keys above a subtree')
  return null
}

function load(tree: Node | Cid, layer: number, blocks: Blocks): Node {
  if (!(tree instanceof Cid)) return tree
  return placed(fetchNode(tree, blocks), layer, tree)
}

function placed(node: MstNode, layer: number, cid: Cid): Node {
  const { keys, values, trees } = node
  if (keys.length === 0 && trees[0] === null) throw malformed('an empty node below another')
  if (layer === 0 && trees.some((tree) => tree !== null)) throw malformed('a subtree below layer 0')
  return { layer, keys, values, trees, cid }
}

/** A node made of parts, or null when nothing is left in it. */
function made(
  layer: number,
  keys: readonly string[],
  values: readonly Cid[],
  trees: (Node | Cid | null)[],
): Node | null {
  if (keys.length === 0 && trees[0] === null) return null
  return { layer, keys, values, trees, cid: null }
}

/** Where a key is in a node, or would be: the count of keys below it. */
function position(node: Node, key: string): number {
  let low = 0
  let high = node.keys.length
  while (low < high) {
    const middle = (low + high) >> 1
    if ((node.keys[middle] ?? '') < key) low = middle + 1
    else high = middle
  }
  return low
}

/** Below its own layer no key is: what is not there is shown absent by the nodes that a change makes. */
function find(top: Node | null, key: string, blocks: Blocks): Cid | null {
  const layer = keyLayer(key)
  for (let node = top; node && node.layer >= layer; ) {
    const index = position(node, key)
    if (node.keys[index] === key) {
      if (node.layer !== layer) throw malformed('a key on a layer that is not its own')
      return node.values[index] ?? null
    }
    if (node.layer === layer) return null
    node = child(node, index, blocks)
  }
  return null
}

function replace(node: Node | null, key: string, cid: Cid, blocks: Blocks): Node {
  if (node === null) throw malformed('a key that was there is gone')
  const { layer, keys, values, trees } = node
  const index = position(node, key)
  if (keys[index] === key) return { layer, keys, values: values.with(index, cid), trees, cid: null }
  const below = replace(child(node, index, blocks), key, cid, blocks)
  return { layer, keys, values, trees: trees.with(index, below), cid: null }
}

function child(node: Node, index: number, blocks: Blocks): Node | null {
  const tree = node.trees[index]
  if (!(tree instanceof Cid)) return tree ?? null
  const loaded = load(tree, node.layer - 1, blocks)
  node.trees[index] = loaded
  return loaded
}

interface Leaf {
  key: string
  cid: Cid
  layer: number
}

function insertAtRoot(top: Node | null, leaf: Leaf, blocks: Blocks): Node {
  if (top !== null && leaf.layer <= top.layer) return insert(top, leaf, blocks)
  const [left, right] = top ? split(top, leaf.key, blocks) : [null, null]
  const sides = [left, right].map((side) => side && raise(side, leaf.layer - 1))
  return leafNode(leaf, sides)
}

function leafNode({ key, cid, layer }: Leaf, trees: (Node | null)[]): Node {
  return { layer, keys: [key], values: [cid], trees, cid: null }
}

/** Nodes without keys lead from a node up to a layer. */
function raise(node: Node, layer: number): Node {
  let raised = node
  while (raised.layer < layer) {
    raised = { layer: raised.layer + 1, keys: [], values: [], trees: [raised], cid: null }
  }
  return raised
}

function insert(node: Node, leaf: Leaf, blocks: Blocks): Node {
  const { layer, keys, values, trees } = node
  const index = position(node, leaf.key)
  const below = child(node, index, blocks)
  if (layer > leaf.layer) {
    const grown = below
      ? insert(below, leaf, blocks)
      : raise(leafNode(leaf, [null, null]), layer - 1)
    return { layer, keys, values, trees: trees.with(index, grown), cid: null }
  }
  const sides = below ? split(below, leaf.key, blocks) : [null, null]
  return {
    layer,
    keys: keys.toSpliced(index, 0, leaf.key),
    values: values.toSpliced(index, 0, leaf.cid),
    trees: trees.toSpliced(index, 1, ...sides),
    cid: null,
  }
}

/** The parts of a tree before and after a key that is not in it. */
function split(node: Node, key: string, blocks: Blocks): [Node | null, Node | null] {
  const { layer, keys, values, trees } = node
  const index = position(node, key)
  const below = child(node, index, blocks)
  const [left, right] = below ? split(below, key, blocks) : [null, null]
  return [
    made(layer, keys.slice(0, index), values.slice(0, index), [...trees.slice(0, index), left]),
    made(layer, keys.slice(index), values.slice(index), [right, ...trees.slice(index + 1)]),
  ]
}

function remove(node: Node, key: string, blocks: Blocks): Node | null {
  const { layer, keys, values, trees } = node
  const index = position(node, key)
  if (keys[index] === key) {
    const merged = merge(trees[index] ?? null, trees[index + 1] ?? null, layer - 1, blocks)
    const rest = trees.toSpliced(index, 2, merged)
    return made(layer, keys.toSpliced(index, 1), values.toSpliced(index, 1), rest)
  }
  const below = child(node, index, blocks)
  if (below === null) throw malformed('a key that was there is gone')
  return made(layer, keys, values, trees.with(index, remove(below, key, blocks)))
}

/** Joins neighbours of one layer, all keys of the left before those of the right. */
function merge(
  left: Node | Cid | null,
  right: Node | Cid | null,
  layer: number,
  blocks: Blocks,
): Node | Cid | null {
  if (left === null || right === null) return left ?? right
  const [a, b] = [load(left, layer, blocks), load(right, layer, blocks)]
  const middle = merge(a.trees.at(-1) ?? null, b.trees[0] ?? null, layer - 1, blocks)
  const trees = [...a.trees.slice(0, -1), middle, ...b.trees.slice(1)]
  return made(layer, [...a.keys, ...b.keys], [...a.values, ...b.values], trees)
}

/**
 * The tree without nodes that have no keys at its top. When the first subtree that may have keys is
 * not at hand, it is the root: a proof need not hold what the commit did not touch.
 */
function trim(top: Node, blocks: Blocks): Node | Cid {
  let node = top
  while (node.keys.length === 0) {
    const [tree] = node.trees
    if (tree instanceof Cid && blocks.get(tree.toString()) === undefined) return tree
    const below = child(node, 0, blocks)
    if (below === null) return node
    node = below
  }
  return node
}

function writeNode(node: Node, out: Map<string, Uint8Array>): Cid {
  if (node.cid) return node.cid
  const trees = node.trees.map((tree) =>
    tree === null || tree instanceof Cid ? tree : writeNode(tree, out),
  )
  const bytes = encodeNode({ keys: [...node.keys], values: [...node.values], trees })
  node.cid = linkOf(bytes)
  out.set(node.cid.toString(), bytes)
  return node.cid
}
