/** Record trees that change, of which only the touched paths are in memory; the ops of a commit undone. */
import { Cid, linkOf } from './cid.ts'
import { asCid, type Blocks, blockOf } from './mst.ts'
import {
  asBuffer,
  checkKey,
  entriesStart,
  indexNode,
  keyLayer,
  linkHeadLength,
  linkOrNull,
  MstError,
  malformed,
  type NodeIndex,
  NodeWriter,
  place,
  placesEach,
  treeHeadLength,
} from './mst-node.ts'

export interface Tree {
  /** The CID of the record at this key, or null. */
  get(key: string): Cid | null
  /** Puts a record in its place and gives what was there before. */
  set(key: string, cid: Cid): Cid | null
  /** Removes a record and gives what was there, or null when there was none. */
  delete(key: string): Cid | null
  /** The root alone, as text. */
  root(): string
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
    root: () => rootOf(top, blocks, () => {}),
    write() {
      const written = new Map<string, Uint8Array>()
      const keep: Keep = (cid, bytes) => written.set(cid.toString(), bytes)
      return { root: rootOf(top, blocks, keep), blocks: written }
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
  return tree.root()
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

function mismatch(message: string): MstError {
  return new MstError('op-mismatch', message)
}

// ——— Nodes as bytes. A change copies what stays, so that only what it touches is encoded anew ———

interface Node {
  readonly layer: number
  /** Its block; where it is not written yet, the links to its kids are not those of the kids. */
  readonly bytes: Uint8Array
  readonly index: NodeIndex
  /** The subtrees that are in memory: the one before the first key, then the one after each. */
  readonly kids: (Node | undefined)[]
  /** Known for a node as it was loaded, and once it was written; the bytes of others are their own. */
  cid: Cid | null
}

/** A node, the link of one that was not loaded, or nothing. */
type Subtree = Node | Cid | null

function loadRoot(root: Cid | string, blocks: Blocks): Node | null {
  const cid = asCid(root)
  const bytes = blockOf(cid, blocks)
  const index = indexNode(bytes)
  if (index.count > 0) return placed(bytes, index, keyLayer(firstKey({ bytes, index })), cid)
  if (linkOrNull(bytes, index.left)) throw malformed('a root without keys above a subtree')
  return null
}

function load(tree: Node | Cid, layer: number, blocks: Blocks): Node {
  if (!(tree instanceof Cid)) return tree
  const bytes = blockOf(tree, blocks)
  return placed(bytes, indexNode(bytes), layer, tree)
}

function placed(bytes: Uint8Array, index: NodeIndex, layer: number, cid: Cid): Node {
  const node: Node = { layer, bytes, index, kids: [], cid }
  if (index.count === 0 && subtree(node, 0) === null) {
    throw malformed('an empty node below another')
  }
  for (let slot = 0; layer === 0 && slot <= index.count; slot++) {
    if (subtree(node, slot) !== null) throw malformed('a subtree below layer 0')
  }
  return node
}

function firstKey({ bytes, index }: Pick<Node, 'bytes' | 'index'>): string {
  const [start, end] = [index.places[place.key], index.places[place.keyEnd]]
  return asBuffer(bytes).toString('latin1', start, end)
}

/** One of the numbers of an entry. */
function numberOf({ index }: Node, entry: number, which: number): number {
  return index.places[entry * placesEach + which] ?? 0
}

function value(node: Node, entry: number): Cid {
  return new Cid(node.bytes, numberOf(node, entry, place.value))
}

/** Where the link of a subtree is, or null in its stead. */
function linkAt(node: Node, slot: number): number {
  return slot === 0 ? node.index.left : numberOf(node, slot - 1, place.tree)
}

function subtree(node: Node, slot: number): Subtree {
  return node.kids[slot] ?? linkOrNull(node.bytes, linkAt(node, slot))
}

function child(node: Node, slot: number, blocks: Blocks): Node | null {
  const tree = subtree(node, slot)
  if (!(tree instanceof Cid)) return tree
  const loaded = load(tree, node.layer - 1, blocks)
  node.kids[slot] = loaded
  return loaded
}

/** Where a key is in a node, or would be, and what it shares with the keys before and after that place. */
interface Found {
  entry: number
  isThere: boolean
  before: number
  after: number
}

/** Of most entries only the length of their prefix is looked at: it tells the order. */
function locate(node: Node, key: string): Found {
  const { bytes, index } = node
  const { places, count } = index
  let match = 0
  for (let entry = 0; entry < count; entry++) {
    const at = entry * placesEach
    const shared = places[at + place.shared] ?? 0
    if (shared > match) continue
    if (shared < match) return { entry, isThere: false, before: match, after: shared }
    const start = places[at + place.key] ?? 0
    const length = (places[at + place.keyEnd] ?? 0) - start
    let same = 0
    while (same < length && bytes[start + same] === key.charCodeAt(match + same)) same++
    const after = match + same
    if (same === length && after === key.length) {
      return { entry, isThere: true, before: match, after }
    }
    const isBefore = same === length || (bytes[start + same] ?? 0) < key.charCodeAt(after)
    if (!isBefore) return { entry, isThere: false, before: match, after }
    match = after
  }
  return { entry: count, isThere: false, before: match, after: 0 }
}

function find(top: Node | null, key: string, blocks: Blocks): Cid | null {
  for (let node = top; node; ) {
    const { entry, isThere } = locate(node, key)
    if (isThere) {
      if (keyLayer(key) !== node.layer) throw malformed('a key on a layer that is not its own')
      return value(node, entry)
    }
    node = child(node, entry, blocks)
  }
  return null
}

/** What a node is made of, in order; `left` comes first, though it stands last. */
class Draft {
  readonly #writer: NodeWriter
  readonly #kids: (Node | undefined)[]

  constructor(count: number, left: Subtree) {
    this.#writer = new NodeWriter(count, cidOfTree(left))
    this.#kids = [kidOf(left)]
  }

  /** The entries of a node up to one, the last of them with another subtree after it. */
  head(node: Node, end: number, last: Subtree): this {
    if (end === 0) return this
    const { bytes, index, kids } = node
    const tree = numberOf(node, end - 1, place.tree)
    this.#writer.copy(bytes, entriesStart(index), tree - treeHeadLength)
    this.#writer.rest(cidOfTree(last), value(node, end - 1))
    for (let slot = 1; slot < end; slot++) this.#kids.push(kids[slot])
    this.#kids.push(kidOf(last))
    return this
  }

  leaf({ key, cid }: Leaf, shared: number, after: Subtree): this {
    this.#writer.key(key, shared)
    this.#writer.rest(cidOfTree(after), cid)
    this.#kids.push(kidOf(after))
    return this
  }

  /**
   * The entries of a node from one on, the first of them with another prefix. When that is shorter,
   * the rest of the old one is in a key that begins with it.
   */
  tail(node: Node, begin: number, shared: number, key: string): this {
    const { bytes, index, kids } = node
    if (begin >= index.count) return this
    const [start, end] = [numberOf(node, begin, place.key), numberOf(node, begin, place.keyEnd)]
    const had = numberOf(node, begin, place.shared)
    const from = start + Math.max(0, shared - had)
    this.#writer.joinedKey(key.slice(0, had), bytes, from, end, shared)
    const tree = numberOf(node, begin, place.tree)
    this.#writer.copy(bytes, tree - treeHeadLength, index.left - treeHeadLength)
    for (let slot = begin + 1; slot <= index.count; slot++) this.#kids.push(kids[slot])
    return this
  }

  end(layer: number): Node {
    const bytes = this.#writer.end()
    return { layer, bytes, index: indexNode(bytes), kids: this.#kids, cid: null }
  }
}

function kidOf(tree: Subtree): Node | undefined {
  return tree === null || tree instanceof Cid ? undefined : tree
}

/** Stands where a link will be, once its node is written. */
const notYet = linkOf(new Uint8Array(0))

function cidOfTree(tree: Subtree): Cid | null {
  return tree === null || tree instanceof Cid ? tree : (tree.cid ?? notYet)
}

/** The subtree before the first key, when another one stands in a place of the node. */
function leftOf(node: Node, slot: number, tree: Subtree): Subtree {
  return slot === 0 ? tree : subtree(node, 0)
}

function emptyNode(): Node {
  return new Draft(0, null).end(0)
}

/** A node that may be written to. */
function own(node: Node): Node {
  if (node.cid === null) return node
  const { layer, bytes, index, kids } = node
  // From a pool: memory of its own would cost more than the copy.
  const copy = Buffer.allocUnsafe(bytes.length)
  copy.set(bytes)
  return { layer, bytes: copy, index, kids: kids.slice(), cid: null }
}

function withSubtree(node: Node, slot: number, tree: Node | null): Node {
  if (tree !== null && subtree(node, slot) !== null) {
    const changed = own(node)
    changed.kids[slot] = tree
    return changed
  }
  return new Draft(node.index.count, leftOf(node, slot, tree))
    .head(node, slot, tree)
    .tail(node, slot, numberOf(node, slot, place.shared), '')
    .end(node.layer)
}

function replace(node: Node | null, key: string, cid: Cid, blocks: Blocks): Node {
  if (node === null) throw malformed('a key that was there is gone')
  const { entry, isThere } = locate(node, key)
  if (!isThere)
    return withSubtree(node, entry, replace(child(node, entry, blocks), key, cid, blocks))
  const changed = own(node)
  cid.copyTo(changed.bytes, numberOf(changed, entry, place.value))
  return changed
}

interface Leaf {
  key: string
  cid: Cid
  layer: number
}

function insertAtRoot(top: Node | null, leaf: Leaf, blocks: Blocks): Node {
  if (top !== null && leaf.layer <= top.layer) return insert(top, leaf, blocks)
  const [left, right] = top ? split(top, leaf.key, blocks) : [null, null]
  return leafNode(leaf, left && raise(left, leaf.layer - 1), right && raise(right, leaf.layer - 1))
}

function leafNode(leaf: Leaf, left: Node | null, right: Node | null): Node {
  return new Draft(1, left).leaf(leaf, 0, right).end(leaf.layer)
}

/** Nodes without keys lead from a node up to a layer. */
function raise(node: Node, layer: number): Node {
  let raised = node
  while (raised.layer < layer) raised = new Draft(0, raised).end(raised.layer + 1)
  return raised
}

function insert(node: Node, leaf: Leaf, blocks: Blocks): Node {
  const { layer, index } = node
  const { entry, before, after } = locate(node, leaf.key)
  const below = child(node, entry, blocks)
  if (layer > leaf.layer) {
    const grown = below ? insert(below, leaf, blocks) : raise(leafNode(leaf, null, null), layer - 1)
    return withSubtree(node, entry, grown)
  }
  const [left, right] = below ? split(below, leaf.key, blocks) : [null, null]
  return new Draft(index.count + 1, leftOf(node, entry, left))
    .head(node, entry, left)
    .leaf(leaf, before, right)
    .tail(node, entry, after, leaf.key)
    .end(layer)
}

/** The parts of a tree before and after a key that is not in it. */
function split(node: Node, key: string, blocks: Blocks): [Node | null, Node | null] {
  const { layer, index } = node
  const { entry } = locate(node, key)
  const below = child(node, entry, blocks)
  const [left, right] = below ? split(below, key, blocks) : [null, null]
  const first = leftOf(node, entry, left)
  return [
    made(entry, first) && new Draft(entry, first).head(node, entry, left).end(layer),
    made(index.count - entry, right) &&
      new Draft(index.count - entry, right).tail(node, entry, 0, key).end(layer),
  ]
}

/** Null when nothing is left in a node. */
function made(count: number, left: Subtree): true | null {
  return count > 0 || left !== null ? true : null
}

function remove(node: Node, key: string, blocks: Blocks): Node | null {
  const { layer, index } = node
  const { entry, isThere } = locate(node, key)
  if (!isThere) {
    const below = child(node, entry, blocks)
    if (below === null) throw malformed('a key that was there is gone')
    const rest = remove(below, key, blocks)
    return made(index.count, leftOf(node, entry, rest)) && withSubtree(node, entry, rest)
  }
  const merged = merge(subtree(node, entry), subtree(node, entry + 1), layer - 1, blocks)
  const left = leftOf(node, entry, merged)
  // Sorted keys: the neighbours share what both share with the one between them.
  const shared = Math.min(
    numberOf(node, entry, place.shared),
    numberOf(node, entry + 1, place.shared),
  )
  return (
    made(index.count - 1, left) &&
    new Draft(index.count - 1, left)
      .head(node, entry, merged)
      .tail(node, entry + 1, shared, key)
      .end(layer)
  )
}

/** Joins neighbours of one layer, all keys of the left before those of the right. */
function merge(left: Subtree, right: Subtree, layer: number, blocks: Blocks): Subtree {
  if (left === null || right === null) return left ?? right
  const [a, b] = [load(left, layer, blocks), load(right, layer, blocks)]
  const [last, count] = [a.index.count, a.index.count + b.index.count]
  const middle = merge(subtree(a, last), subtree(b, 0), layer - 1, blocks)
  const first = leftOf(a, last, middle)
  const { entry, before } = b.index.count > 0 ? locate(a, firstKey(b)) : { entry: last, before: 0 }
  if (entry !== last) throw malformed('keys out of order')
  return (
    made(count, first) &&
    new Draft(count, first).head(a, last, middle).tail(b, 0, before, '').end(layer)
  )
}

/**
 * The tree without nodes that have no keys at its top. When the first subtree that may have keys is
 * not at hand, it is the root: a proof need not hold what the commit did not touch.
 */
function trim(top: Node, blocks: Blocks): Node | Cid {
  let node = top
  while (node.index.count === 0) {
    const tree = subtree(node, 0)
    if (tree instanceof Cid && blocks.get(tree.toString()) === undefined) return tree
    const below = child(node, 0, blocks)
    if (below === null) return node
    node = below
  }
  return node
}

/** Told of each node that was made. */
type Keep = (cid: Cid, bytes: Uint8Array) => void

function rootOf(top: Node | null, blocks: Blocks, keep: Keep): string {
  const trimmed = trim(top ?? emptyNode(), blocks)
  return (trimmed instanceof Cid ? trimmed : writeNode(trimmed, keep)).toString()
}

function writeNode(node: Node, keep: Keep): Cid {
  if (node.cid) return node.cid
  const { bytes, kids } = node
  for (let slot = 0; slot < kids.length; slot++) {
    const kid = kids[slot]
    // Of a kid that was only read the link is there.
    if (kid === undefined || kid.cid !== null) continue
    writeNode(kid, keep).copyTo(bytes, linkAt(node, slot) + linkHeadLength)
  }
  node.cid = linkOf(bytes)
  keep(node.cid, bytes)
  return node.cid
}
