/** Draws docs/demo.svg (`npm run picture`): a screen of a real run of the demo, some faults later. */
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { environment } from '../shared/config.ts'
import { sleep } from '../shared/retry.ts'
import { start } from './start.ts'
import { layout } from './view.ts'
import { createBoard } from './view-board.ts'
import { picture } from './view-picture.ts'
import type { ViewState } from './view-state.ts'

const size = { columns: 96, rows: 33 }
const title = 'The terminal view of npm run demo'
// Three faults have healed by then, and the backfill is under way.
const wantedFaults = 4
const withinMs = 240_000

const file = new URL('../docs/demo.svg', import.meta.url)
const data = await mkdtemp(join(tmpdir(), 'sluice-picture-'))
// Under root, Postgres runs as a user who must get in.
await chmod(data, 0o755)
const ending = new AbortController()
process.on('SIGINT', () => ending.abort())
const board = createBoard({ title: 'demo on a simulated network' })
const args = {
  relays: null,
  backfill: [],
  data,
  simulated: true,
  demo: true,
  plain: false,
  help: false,
}
const { signal } = ending
const running = start(args, { env: environment, signal, say: board.say, board, isSeen: true })
// The picture fails with the start.
running.catch(() => ending.abort())
try {
  const seen = await worthSeeing()
  if (seen !== null) {
    const log = seen.log.filter((line) => !line.includes(data))
    const shown = { ...seen, log, footer: 'Ctrl-C ends it' }
    await writeFile(file, picture(layout(shown, size), size.columns, title))
  }
} finally {
  ending.abort()
  await running.finally(() => rm(data, { recursive: true, force: true, maxRetries: 5 }))
}

/** The board in the middle of a fault; null when the run ends before. */
async function worthSeeing(): Promise<ViewState | null> {
  const deadline = performance.now() + withinMs
  while (!signal.aborted && performance.now() < deadline) {
    const state = board.state()
    const last = state.faults.at(wantedFaults - 1)
    if (last !== undefined && last.stage === 'failing' && last.seconds > 3.2) return state
    await sleep(100, signal)
  }
  if (!signal.aborted) throw new Error(`no ${wantedFaults} faults within ${withinMs} ms`)
  return null
}
