/** `sluice doctor`: finds what older workers left in a database and, when asked, heals it. */
import { collections } from '../indexer/collections/index.ts'
import { createDeriver } from '../indexer/derive.ts'
import { examine, type Finding } from '../indexer/doctor/doctor.ts'
import { compileLexicons } from '../indexer/lexicons.ts'
import { requireTables } from '../indexer/tables.ts'
import { options } from '../migrations/options.ts'
import { readConfig } from '../shared/config.ts'
import { InvalidEventError } from '../shared/errors.ts'
import { timestamp } from '../shared/events.ts'
import { act, examples, type Register, UserError } from './command.ts'
import type { Output, Progress } from './output.ts'
import { openPostgres } from './postgres.ts'

interface Flags {
  repair?: boolean
  counts?: boolean
  rows?: boolean
  since?: string
  takeover?: boolean
  drain?: boolean
  forgetGroup?: string
  stream?: string
}

/** What each kind of finding is, for people. */
const docs: Readonly<Record<string, string>> = {
  tombstones: 'deleted records that are kept as {}',
  links: 'records whose links are byte arrays',
  revs: 'records with a rev that no longer is theirs',
  times: 'rows with a time in another form',
  blobs: 'rows without the CID of a blob that the record has',
  actors: 'accounts with records and no row',
  notifications: 'notifications that stand twice',
  rows: 'records whose rows are not what they say',
  orphans: 'rows whose record is gone',
  rules: 'posts whose place in their thread, or whose gates, are not what is there',
  counts: 'keys whose counters differ from a recount',
}

const statementTimeoutMs = 120_000

export const register: Register = (program, context) => {
  program
    .command('doctor')
    .description('find what older workers left in the database, and heal it with --repair')
    .option('--repair', 'heal what is found; indexers may run meanwhile. Call again to continue')
    .option('--rows', 'compare every row with what its record says too')
    .option('--counts', 'compare every counter with a recount of its rows too')
    .option('--since <time>', 'workers that keep no revs wrote here from then on: forget old revs')
    .option('--takeover', 'look at Redis and Postgres before ours take over from older workers')
    .option('--drain', 'have our indexers finish what is pending, before going back to older ones')
    .option('--forget-group <name>', 'remove a group that does not count and that holds trimming')
    .option('--stream <name>', 'with --forget-group: only from this stream')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      examples([
        'sluice doctor',
        'sluice doctor --repair --rows --counts',
        'sluice doctor --takeover --json',
        'sluice doctor --drain',
        'sluice doctor --forget-group prod_stream',
      ]),
    )
    .action(
      act(context, async (flags: Flags) => {
        const { repair = false, rows = false, counts = false, since } = flags
        requireOneTask(flags)
        if (flags.takeover) return (await import('./takeover.ts')).takeOver(context)
        if (flags.drain) return (await import('./drain.ts')).drain(context)
        if (flags.forgetGroup !== undefined) {
          const { forgetGroup } = await import('./forget-group.ts')
          return forgetGroup(context, flags.forgetGroup, flags.stream)
        }
        const { env, out, signal } = context
        const { databaseUrl, schema, logLevel } = readConfig(options, env)
        const from = since === undefined ? null : timeOf(since)
        await using sql = await openPostgres({ databaseUrl, logLevel }, context, {
          name: 'doctor',
          poolSize: 2,
        })
        await requireTables(sql, schema)
        const names = collections.map(({ nsid }) => nsid)
        const deriver = createDeriver(collections, await compileLexicons(names))
        const scope = () => true
        using bar = createBar(out)
        const findings = await examine({
          apply: { sql, schema, collections, deriver, scope, statementTimeoutMs, handles: true },
          repair,
          rows,
          counts,
          since: from,
          signal,
          onProgress: bar.at,
        })
        const wrong = byKind(findings)
        out.rows(
          wrong.map(({ kind, found }) => {
            return { found, repaired: repair ? found : 0, kind, what: docs[kind] ?? '' }
          }),
          'nothing is wrong',
        )
        return wrong.length > 0 && !repair ? 1 : 0
      }),
    )
}

function requireOneTask({ takeover, drain, forgetGroup, stream, ...heal }: Flags): void {
  const given = [takeover, drain, forgetGroup].filter((flag) => flag !== undefined).length
  const heals = heal.repair || heal.rows || heal.counts || heal.since !== undefined
  if (given + (heals ? 1 : 0) > 1) {
    throw new UserError('--takeover, --drain and --forget-group each go by themselves')
  }
  if (stream !== undefined && forgetGroup === undefined) {
    throw new UserError('--stream goes with --forget-group')
  }
}

/** One bar after the other, as the walks follow each other. */
function createBar(out: Output) {
  let current: { walk: string; progress: Progress } | null = null
  const end = () => current?.progress[Symbol.dispose]()
  const at = (walk: string, done: number, total: number) => {
    if (current?.walk !== walk) {
      end()
      current = { walk, progress: out.progress(walk) }
    }
    current.progress.at(done, total)
  }
  return { at, [Symbol.dispose]: end }
}

/** What was found of each kind, without those of which nothing was. */
function byKind(findings: readonly Finding[]): { kind: string; found: number }[] {
  const sums = new Map<string, number>()
  for (const { kind, found } of findings) sums.set(kind, (sums.get(kind) ?? 0) + found)
  return [...sums].filter(([, found]) => found > 0).map(([kind, found]) => ({ kind, found }))
}

function timeOf(text: string): string {
  try {
    return timestamp(text)
  } catch (error) {
    if (!(error instanceof InvalidEventError)) throw error
    throw new UserError('--since: must be a time such as 2026-01-02T03:04:05Z')
  }
}
