/** Whether the indexer can work on tables that something else created. Pure. */
import type { Column } from './catalogue.ts'
import { ownTables } from './ours.ts'

/** What a schema that something else created holds. */
export interface Found {
  relations: readonly string[]
  columns: readonly Column[]
  uniqueKeys: ReadonlySet<string>
}

interface Need {
  /** Columns that the indexer names; the type is text unless it is said as `name:type`. */
  columns: string
  /** The keys by which rows conflict, the columns of each sorted. */
  unique: readonly string[]
}

const record = 'uri cid creator createdAt indexedAt'
const sorted = `${record} sortAt:generated`

/** The tables that the indexer writes, and those of others that it reads. */
export const needs: Readonly<Record<string, Need>> = {
  record: { columns: 'uri cid did json indexedAt', unique: ['uri'] },
  duplicate_record: { columns: 'uri cid duplicateOf indexedAt', unique: ['uri'] },
  post: {
    columns: `${sorted} text langs:jsonb tags:jsonb replyRoot replyRootCid replyParent replyParentCid
      invalidReplyRoot:boolean violatesThreadGate:boolean violatesEmbeddingRules:boolean
      hasThreadGate:boolean hasPostGate:boolean`,
    unique: ['uri'],
  },
  feed_item: { columns: 'uri cid type postUri originatorDid sortAt', unique: ['uri'] },
  post_embed_image: {
    columns: 'postUri position imageCid alt',
    unique: ['position postUri'],
  },
  post_embed_gallery_image: {
    columns: 'postUri position imageCid alt',
    unique: ['position postUri'],
  },
  post_embed_external: { columns: 'postUri uri title description thumbCid', unique: ['postUri'] },
  post_embed_record: { columns: 'postUri embedUri embedCid', unique: ['embedUri postUri'] },
  post_embed_video: { columns: 'postUri videoCid alt', unique: ['postUri'] },
  quote: {
    columns: 'uri cid subject subjectCid createdAt indexedAt sortAt:generated',
    unique: ['uri'],
  },
  op_thread_reply: { columns: 'rootUri uri parentUri deletedAt', unique: ['rootUri uri'] },
  thread_gate: { columns: `${record} postUri`, unique: ['uri', 'postUri'] },
  post_gate: { columns: `${record} postUri`, unique: ['uri', 'postUri'] },
  like: {
    columns: `${sorted} subject subjectCid via viaCid`,
    unique: ['uri', 'creator subject'],
  },
  repost: {
    columns: `${sorted} subject subjectCid via viaCid`,
    unique: ['uri', 'creator subject'],
  },
  follow: { columns: `${sorted} subjectDid`, unique: ['uri', 'creator subjectDid'] },
  actor_block: { columns: `${sorted} subjectDid`, unique: ['uri', 'creator subjectDid'] },
  list: {
    columns: `${sorted} name purpose description descriptionFacets avatarCid`,
    unique: ['uri'],
  },
  list_item: { columns: `${sorted} listUri subjectDid`, unique: ['uri', 'listUri subjectDid'] },
  list_block: { columns: `${sorted} subjectUri`, unique: ['uri', 'creator subjectUri'] },
  reference_list_opt_out: {
    columns: `${sorted} subjectUri`,
    unique: ['uri', 'creator subjectUri'],
  },
  starter_pack: { columns: `${sorted} name`, unique: ['uri'] },
  verification: {
    columns: `${record} rkey subject handle displayName sortedAt:generated`,
    unique: ['uri', 'creator subject'],
  },
  feed_generator: {
    columns: `${sorted} feedDid displayName description descriptionFacets avatarCid`,
    unique: ['uri'],
  },
  labeler: { columns: sorted, unique: ['uri'] },
  profile: {
    columns: `${record} displayName description avatarCid bannerCid joinedViaStarterPackUri`,
    unique: ['uri'],
  },
  notification: {
    columns: 'did recordUri recordCid author reason reasonSubject sortAt',
    unique: [],
  },
  post_agg: {
    columns: 'uri likeCount:bigint replyCount:bigint repostCount:bigint quoteCount:bigint',
    unique: ['uri'],
  },
  profile_agg: {
    columns: 'did followersCount:bigint followsCount:bigint postsCount:bigint',
    unique: ['did'],
  },
  actor: { columns: 'did handle indexedAt upstreamStatus', unique: ['did', 'handle'] },
  actor_sync: { columns: 'did commitCid repoRev', unique: ['did'] },
  label: { columns: 'src uri cid val neg:boolean cts exp', unique: ['cid src uri val'] },
  thread_mute: { columns: 'rootUri mutedByDid', unique: [] },
}

/** Tables of `needs` that the indexer only reads. */
const readOnly = new Set(['thread_mute'])

/** Why the indexer can't work on this schema, one reason each; empty when it can. */
export function obstacles(found: Found): string[] {
  const inTheWay = ownTables
    .filter((table) => found.relations.includes(table))
    .map((table) => `${table} is there already, and is not ours`)
  return [
    ...Object.entries(needs).flatMap(([table, need]) => tableObstacles(table, need, found)),
    ...revObstacles(found),
    ...inTheWay,
  ]
}

function tableObstacles(table: string, need: Need, { columns, uniqueKeys }: Found): string[] {
  const present = columns.filter((column) => column.table === table)
  if (present.length === 0) return [`table ${table} is missing`]
  const wanted = need.columns.split(/\s+/).map((text) => text.split(':'))
  const missing = wanted.flatMap(([name = '', type = 'text']) => {
    const column = present.find((candidate) => candidate.name === name)
    if (column === undefined) return [`column ${table}.${name} is missing`]
    return fits(column, type)
      ? []
      : [`column ${table}.${name} is ${described(column)}, not ${type}`]
  })
  const keys = need.unique
    .filter((key) => !uniqueKeys.has(`${table}: ${key}`))
    .map((key) => `${table} has no unique key on (${key.replaceAll(' ', ', ')})`)
  const names = wanted.map(([name]) => name)
  const unfilled = present
    .filter(({ name, required, hasDefault, generated }) => {
      return required && !hasDefault && !generated && !names.includes(name)
    })
    .map(({ name }) => `column ${table}.${name} is required, has no default and is unknown to us`)
  return [...missing, ...keys, ...(readOnly.has(table) ? [] : unfilled)]
}

/** Some databases have a rev of their own, which is welcome if it can hold ours. */
function revObstacles({ columns }: Found): string[] {
  const rev = columns.find(({ table, name }) => table === 'record' && name === 'rev')
  if (rev === undefined || (fits(rev, 'text') && !rev.required)) return []
  return [`column record.rev is ${described(rev)}, not a nullable text`]
}

function fits(column: Column, type: string): boolean {
  const isText = column.type === 'character varying' || column.type === 'text'
  if (type === 'generated') return isText && column.generated
  if (column.generated) return false
  return type === 'text' ? isText : column.type === type
}

function described({ type, required, generated }: Column): string {
  return `${required ? 'a required' : 'a'} ${generated ? 'generated ' : ''}${type}`
}
