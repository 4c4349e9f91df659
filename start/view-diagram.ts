/** The pipeline as the README draws it, with the numbers of this moment. Pure. */

import { type Condition, conditions, type ViewState } from './view-state.ts'
import { duration, type Line, rate, type Style, short, span } from './view-text.ts'

/** The diagram is not drawn in fewer columns. */
export const diagramColumns = 80
export const diagramRows = 11

const sourceColumns = 18
const boxColumns = 14

/** The diagram in `diagramRows` lines, none wider than `width`, which is at least `diagramColumns`. */
export function diagram(state: ViewState, width: number): Line[] {
  const { workers, servers, rates, waiting } = state
  const canvas = createCanvas(width, diagramRows)
  const left = sourceColumns
  const right = width - boxColumns - 1
  const middle = left + boxColumns
  const turn = right - 5

  canvas.box(left, 0, ['ingester', workers.ingester, age(state.behindSeconds)])
  canvas.box(left, 6, ['backfiller', workers.backfiller, `${rate(rates.repos, ' repos')}`])
  canvas.box(right, 0, ['indexer', workers.indexer, rate(rates.events)])
  canvas.box(right, 6, [
    'Postgres',
    servers.postgres,
    `${short(state.rows['record'] ?? null)} rows`,
  ])

  const [redis, redisStyle] = conditions[servers.redis]
  canvas.put(middle + 2, 0, 'Redis', 'title')
  canvas.put(middle + 8, 0, redis, redisStyle)

  const source = (y: number, name: string, number = '') => {
    canvas.put(1, y, name)
    const arrow = '─▶'
    canvas.put(left - arrow.length - number.length - 1, y, number, 'accent')
    canvas.put(left - arrow.length, y, arrow, 'dim')
  }
  source(1, 'relay', rate(rates.frames))
  source(2, 'labeler', rate(rates.labels))
  source(3, 'lists of repos')
  source(7, 'PDSes')

  const stream = (y: number, name: string, entries: number | null, end: number, tail: string) => {
    canvas.put(middle, y, '─'.repeat(end - middle), 'dim')
    canvas.put(end - tail.length, y, tail, 'dim')
    canvas.put(middle + 1, y, ` ${name} `)
    const number = ` ${short(entries)} `
    canvas.put(end - tail.length - number.length, y, number, waits(entries))
    canvas.put(middle - 1, y, '├', 'dim')
  }
  stream(1, 'firehose_live', waiting.live, right, '──▶')
  stream(2, 'label_live', waiting.labels, right, '──▶')
  stream(7, 'firehose_backfill', waiting.backfill, turn + 1, '─┘')
  canvas.put(turn, 3, `┌${'─'.repeat(right - turn - 2)}▶`, 'dim')
  for (const y of [4, 5, 6]) canvas.put(turn, y, '│', 'dim')

  const down = (x: number, name: string, entries: number | null | undefined) => {
    const centre = x + boxColumns / 2 - 1
    canvas.put(centre, 4, '┬', 'dim')
    canvas.put(centre, 5, '│', 'dim')
    canvas.put(centre, 6, '▼', 'dim')
    canvas.put(centre + 2, 5, name)
    if (entries !== undefined) {
      canvas.put(centre + 3 + name.length, 5, short(entries), waits(entries))
    }
  }
  down(left, 'repo_backfill', waiting.requests)
  down(right, '', undefined)
  return canvas.lines()
}

function age(seconds: number | null): string {
  if (seconds === null) return ''
  const [number, unit = ''] = duration(seconds).split(' ')
  return `${number} ${unit} late`
}

/** Entries that wait are the thing to see; none is the rule. */
function waits(entries: number | null): Style {
  return entries !== null && entries > 0 ? 'accent' : 'dim'
}

type Cell = readonly [glyph: string, style: Style]

/** A grid of characters that are one column wide each; what falls outside of it is left out. */
function createCanvas(width: number, height: number) {
  const grid: Cell[][] = Array.from({ length: height }, () =>
    Array.from({ length: width }, (): Cell => [' ', 'plain']),
  )
  const put = (x: number, y: number, text: string, style: Style = 'plain') => {
    const row = grid[y]
    for (const [at, glyph] of [...text].entries()) {
      if (row !== undefined && x + at >= 0 && x + at < width) row[x + at] = [glyph, style]
    }
  }
  const centred = (x: number, y: number, text: string, style: Style) => {
    const room = boxColumns - 2
    const shown = text.slice(0, room)
    put(x + 1 + Math.floor((room - shown.length) / 2), y, shown, style)
  }
  const box = (x: number, y: number, [name, condition, number]: [string, Condition, string]) => {
    const edge = '─'.repeat(boxColumns - 2)
    put(x, y, `┌${edge}┐`, 'dim')
    for (const inner of [1, 2, 3]) {
      put(x, y + inner, '│', 'dim')
      put(x + boxColumns - 1, y + inner, '│', 'dim')
    }
    put(x, y + 4, `└${edge}┘`, 'dim')
    centred(x, y + 1, name, 'title')
    centred(x, y + 2, ...conditions[condition])
    centred(x, y + 3, number, 'accent')
  }
  return { put, box, lines: () => grid.map(lineOf) }
}

function lineOf(cells: readonly Cell[]): Line {
  const line: { text: string; style: Style }[] = []
  for (const [glyph, style] of cells) {
    const last = line.at(-1)
    if (last?.style === style) last.text += glyph
    else line.push({ text: glyph, style })
  }
  return line.map(({ text, style }) => span(text, style))
}
