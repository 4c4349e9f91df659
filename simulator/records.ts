/** Records as people write them, of own words: each valid by its lexicon. */
import { createHash } from 'node:crypto'
import { cidForRawHash } from '@atproto/lex-data'
import type { JsonRecord, Ref } from './account.ts'
import type { Random } from './random.ts'

/** Who is mentioned. */
export interface Person {
  did: string
  handle: string
}

const things = ['harbour', 'lighthouse', 'bakery', 'ferry', 'orchard', 'library', 'kite', 'teapot']
const verbs = ['waits for', 'remembers', 'paints', 'repairs', 'sings to', 'counts', 'borrows']
const times = ['before lunch', 'at low tide', 'every Tuesday', 'in the rain', 'after midnight']
const marks = ['', '.', ' …', ' 🌊', ' 🐙🫧', ' – naïve, I know', ' ありがとう']
const tags = ['gardening', 'slowtravel', 'breadmaking', 'tides']
const hobbies = ['knots', 'old maps', 'sourdough', 'radio plays', 'mosses', 'bridges']

export function sentence(random: Random): string {
  const [thing, other] = [random.pick(things), random.pick(things)]
  return `The ${thing} ${random.pick(verbs)} the ${other} ${random.pick(times)}${random.pick(marks)}`
}

/** A post: sometimes with a tag, a mention or a link, sometimes with something embedded. */
export function postRecord(
  random: Random,
  about: { createdAt: string; people: readonly Person[]; quotable: readonly Ref[] },
): JsonRecord {
  const { createdAt, people, quotable } = about
  const { text, facets } = decorate(random, sentence(random), people)
  const embed = embedOf(random, quotable)
  return {
    text,
    langs: ['en'],
    createdAt,
    ...(facets !== undefined && { facets }),
    ...(embed !== undefined && { embed }),
    ...(random.chance(0.1) && { tags: [random.pick(tags)] }),
  }
}

/** A post that answers another; `root` is where the thread began. */
export function replyRecord(
  random: Random,
  reply: { createdAt: string; root: Ref; parent: Ref },
): JsonRecord {
  const { createdAt, root, parent } = reply
  const text = random.chance(0.5) ? `Surely not. ${sentence(random)}` : sentence(random)
  return { text, langs: ['en'], createdAt, reply: { root: refOf(root), parent: refOf(parent) } }
}

/** A like or a repost. */
export function subjectRecord(subject: Ref, createdAt: string, via?: Ref): JsonRecord {
  return { subject: refOf(subject), createdAt, ...(via !== undefined && { via: refOf(via) }) }
}

/** A follow or a block. */
export function personRecord(did: string, createdAt: string): JsonRecord {
  return { subject: did, createdAt }
}

export function profileRecord(random: Random, handle: string, createdAt: string): JsonRecord {
  const description = `Likes ${random.pick(hobbies)} and ${random.pick(hobbies)}. A simulated person.`
  return { displayName: nameOf(handle), description, avatar: imageBlob(random), createdAt }
}

function refOf({ uri, cid }: Ref): Ref {
  return { uri, cid }
}

function decorate(random: Random, text: string, people: readonly Person[]) {
  const drawn = random.next()
  if (drawn < 0.1) {
    const tag = random.pick(tags)
    return withFacet(text, `#${tag}`, { $type: 'app.bsky.richtext.facet#tag', tag })
  }
  if (drawn < 0.2 && people.length > 0) {
    const { did, handle } = random.pick(people)
    return withFacet(text, `@${handle}`, { $type: 'app.bsky.richtext.facet#mention', did })
  }
  if (drawn < 0.25) {
    const uri = `https://${random.pick(things)}.example/page/${random.below(1000)}`
    return withFacet(text, uri, { $type: 'app.bsky.richtext.facet#link', uri })
  }
  return { text, facets: undefined }
}

/** Facets point at bytes of UTF-8, not at characters. */
function withFacet(before: string, part: string, feature: JsonRecord) {
  const byteStart = Buffer.byteLength(before) + 1
  const index = { byteStart, byteEnd: byteStart + Buffer.byteLength(part) }
  return { text: `${before} ${part}`, facets: [{ index, features: [feature] }] }
}

function embedOf(random: Random, quotable: readonly Ref[]): JsonRecord | undefined {
  const drawn = random.next()
  if (drawn < 0.08) return external(random)
  if (drawn < 0.2) return images(random)
  if (drawn >= 0.3 || quotable.length === 0) return undefined
  const record = { $type: 'app.bsky.embed.record', record: refOf(random.pick(quotable)) }
  if (drawn < 0.27) return record
  const media = random.chance(0.5) ? images(random) : external(random)
  return { $type: 'app.bsky.embed.recordWithMedia', record, media }
}

function external(random: Random): JsonRecord {
  const thing = random.pick(things)
  const uri = `https://${thing}.example/story/${random.below(10_000)}`
  const thumb = random.chance(0.5) && { thumb: imageBlob(random) }
  const about = { uri, title: `On the ${thing}`, description: sentence(random), ...thumb }
  return { $type: 'app.bsky.embed.external', external: about }
}

function images(random: Random): JsonRecord {
  const picture = () => ({
    image: imageBlob(random),
    alt: random.chance(0.7) ? `A ${random.pick(things)}` : '',
    aspectRatio: { width: 400 + random.below(1600), height: 400 + random.below(1600) },
  })
  const list = Array.from({ length: 1 + random.below(4) }, picture)
  return { $type: 'app.bsky.embed.images', images: list }
}

/** A blob as records refer to it; no PDS has its bytes. */
function imageBlob(random: Random): JsonRecord {
  const digest = createHash('sha256').update(random.bytes(16)).digest()
  const ref = { $link: cidForRawHash(digest).toString() }
  return { $type: 'blob', ref, mimeType: 'image/jpeg', size: 10_000 + random.below(900_000) }
}

export function listRecord(random: Random, createdAt: string): JsonRecord {
  const purpose = random.chance(0.6) ? 'curatelist' : 'modlist'
  const name = `People of the ${random.pick(things)}`
  return {
    purpose: `app.bsky.graph.defs#${purpose}`,
    name,
    description: sentence(random),
    createdAt,
  }
}

export function listItemRecord(list: string, subject: string, createdAt: string): JsonRecord {
  return { list, subject, createdAt }
}

/** Who may answer a post: sometimes nobody, sometimes those of a list; some answers are hidden. */
export function threadGateRecord(
  random: Random,
  gate: { post: string; lists: readonly string[]; hidden: readonly string[]; createdAt: string },
): JsonRecord {
  const { post, lists, hidden, createdAt } = gate
  const rule = (name: string, more: JsonRecord = {}) => ({
    $type: `app.bsky.feed.threadgate#${name}`,
    ...more,
  })
  const [list] = lists
  const rules = [
    [],
    [rule('mentionRule')],
    [rule('followingRule'), rule('followerRule')],
    list === undefined ? [rule('followingRule')] : [rule('listRule', { list })],
  ]
  const allow = random.chance(0.8) ? { allow: random.pick(rules) } : {}
  return { post, ...allow, ...(hidden.length > 0 && { hiddenReplies: [...hidden] }), createdAt }
}

/** Who may quote a post: nobody, or all but those who were detached. */
export function postGateRecord(
  random: Random,
  gate: { post: string; detached: readonly string[]; createdAt: string },
): JsonRecord {
  const { post, detached, createdAt } = gate
  const nobody = { embeddingRules: [{ $type: 'app.bsky.feed.postgate#disableRule' }] }
  const rules = random.chance(0.5) ? nobody : {}
  return { post, ...rules, detachedEmbeddingUris: [...detached], createdAt }
}

export function starterPackRecord(
  random: Random,
  pack: { list: string; feeds: readonly string[]; createdAt: string },
): JsonRecord {
  const { list, feeds, createdAt } = pack
  const name = `Start at the ${random.pick(things)}`
  return { name, list, feeds: feeds.slice(0, 3).map((uri) => ({ uri })), createdAt }
}

export function generatorRecord(random: Random, did: string, createdAt: string): JsonRecord {
  const displayName = `All about ${random.pick(hobbies)}`
  return { did, displayName, description: sentence(random), createdAt }
}

export function verificationRecord({ did, handle }: Person, createdAt: string): JsonRecord {
  return { subject: did, handle, displayName: nameOf(handle), createdAt }
}

/** A record of which an account has one only, besides its profile; there are four kinds, by turns. */
export function selfRecord(
  random: Random,
  turn: number,
  createdAt: string,
): [collection: string, record: JsonRecord] {
  switch (turn % 4) {
    case 0:
      return [
        'app.bsky.actor.status',
        { status: 'app.bsky.actor.status#live', durationMinutes: 1 + random.below(60), createdAt },
      ]
    case 1:
      return [
        'app.bsky.notification.declaration',
        { allowSubscriptions: random.pick(['followers', 'mutuals', 'none']) },
      ]
    case 2:
      return [
        'chat.bsky.actor.declaration',
        { allowIncoming: random.pick(['all', 'none', 'following']) },
      ]
    default:
      return [
        'app.bsky.labeler.service',
        { policies: { labelValues: [random.pick(tags)] }, createdAt },
      ]
  }
}

/** The same record after its author has thought again; what can't be worded anew stays as it is. */
export function editedRecord(random: Random, { facets: _, ...record }: JsonRecord): JsonRecord {
  const named = ['name', 'displayName'].find((field) => field in record)
  if (named !== undefined) return { ...record, [named]: `The new ${random.pick(things)}` }
  return 'text' in record ? { ...record, text: sentence(random) } : record
}

function nameOf(handle: string): string {
  const name = handle.split('.')[0] ?? handle
  return `${name.charAt(0).toUpperCase()}${name.slice(1)}`
}
