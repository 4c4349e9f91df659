/** The screen of `npm start` and `npm run demo`: what is known of the pipeline, in lines. Pure. */
import { diagram, diagramColumns, diagramRows } from './view-diagram.ts'
import { conditions, type FaultStage, type ShownFault, type ViewState } from './view-state.ts'
import {
  bar,
  cut,
  duration,
  ends,
  type Line,
  long,
  padded,
  rate,
  type Style,
  short,
  span,
  sparkline,
  toText,
  widthOf,
} from './view-text.ts'

export interface Size {
  columns: number
  rows: number
}

/** A wider screen only moves what belongs together apart. */
const widest = 132
const labelColumns = 11

/** The screen as lines of text, none wider than the columns and no more than the rows. */
export function render(state: ViewState, size: Size & { colour: boolean }): string[] {
  return layout(state, size).map((line) => toText(line, size.colour))
}

/** How it went, for the lines after the screen is gone. */
export function summary({ upSeconds, rows, deadLetters, faults }: ViewState): string {
  const healed = faults.filter(({ stage }) => stage === 'healed').length
  return [
    `${duration(upSeconds)}`,
    `${long(rows['record'] ?? 0)} rows`,
    `dead letters ${short(deadLetters)}`,
    ...(faults.length > 0 ? [`${healed} of ${faults.length} faults healed`] : []),
  ].join(' · ')
}

/** The screen as lines of styled text, as many as there are rows. */
export function layout(state: ViewState, { columns, rows }: Size): Line[] {
  const width = Math.min(columns, widest)
  const drawn = width >= diagramColumns && rows >= diagramRows + 9
  // Room is spent first on air, then on a higher curve, then on faults and the log.
  const air = (least: number): Line[] => (rows >= least ? [[]] : [])
  const curveRows = rows >= 30 ? Math.min(6, 3 + Math.floor((rows - 30) / 6)) : 1
  const above = [
    header(state, width),
    ...air(22),
    ...(drawn ? diagram(state, width) : list(state)),
    ...air(27),
    ...curve(state, width, curveRows),
    ...air(29),
    ...tables(state, width),
    ...air(29),
    backfill(state, width),
    standing(state),
    ...(rows >= 24 ? [ports(state)] : []),
    ...air(25),
  ]
  const room = Math.max(0, rows - above.length - 1)
  const faults = faultLines(state.faults, Math.min(8, Math.ceil(room / 2)))
  const apart = air(32)
  const log = logLines(state.log, room - faults.length - apart.length)
  const body = [...above, ...faults, ...apart, ...log].slice(0, Math.max(0, rows - 1))
  while (body.length < rows - 1) body.push([])
  const footer = [span(` ${state.footer}`, 'dim')]
  return [...body, footer].slice(0, Math.max(0, rows)).map((line) => cut(line, columns))
}

function header({ title, stage, upSeconds }: ViewState, width: number): Line {
  const running = stage === 'running'
  const right = [
    span(`${running ? '●' : '◌'} ${stage}`, running ? 'good' : 'warn'),
    span(`  ${duration(upSeconds)} `, 'dim'),
  ]
  return ends([span(' Sluice', 'title'), span('  '), span(title)], right, width)
}

/** The same as the diagram, for a screen that is too small for it. */
function list({ workers, servers, rates, waiting }: ViewState): Line[] {
  const part = (name: string, condition: keyof typeof conditions, text: string): Line => {
    const [shown, style] = conditions[condition]
    return [...label(name), ...padded([span(shown, style)], 13), span(text)]
  }
  return [
    part('ingester', workers.ingester, `${rate(rates.frames)}, ${short(waiting.live)} waiting`),
    part('indexer', workers.indexer, rate(rates.events)),
    part('backfiller', workers.backfiller, `${short(waiting.requests)} repos waiting`),
    part('Redis', servers.redis, ''),
    part('Postgres', servers.postgres, ''),
  ]
}

function label(text: string): Line {
  return padded([span(` ${text}`, 'dim')], labelColumns)
}

/** Events a second: now, the last minutes as a curve, the most. */
function curve({ rates, history, peak }: ViewState, width: number, height: number): Line[] {
  const now = padded([span(rate(rates.events), 'title')], 9)
  const most = [span(`  peak ${rate(peak)} `, 'dim')]
  const columns = width - labelColumns - widthOf(now) - widthOf(most)
  return sparkline(history, Math.max(0, columns), height).map((line, at) => {
    const start = at === height - 1 ? [...label('events'), ...now] : padded([], labelColumns + 9)
    return [...start, span(line, 'accent'), ...(at === 0 ? most : [])]
  })
}

/** Rows by table, side by side in as many columns as fit. */
function tables({ rows }: ViewState, width: number): Line[] {
  const cellColumns = 20
  const perLine = Math.max(1, Math.floor((width - labelColumns) / cellColumns))
  const cells = Object.entries(rows).map(([table, count]) => [
    ...padded([span(table)], 8),
    ...padded([span(long(count), count > 0 ? 'title' : 'dim')], cellColumns - 11, 'right'),
    span('   '),
  ])
  const lines: Line[] = []
  for (let at = 0; at < cells.length; at += perLine) {
    lines.push([...label(at === 0 ? 'rows' : ''), ...cells.slice(at, at + perLine).flat()])
  }
  return lines.length > 0 ? lines : [label('rows')]
}

function backfill({ backfill }: ViewState, width: number): Line {
  if (backfill === null) return [...label('backfill'), span('no repo was asked for', 'dim')]
  const { done, total, leftSeconds } = backfill
  const share = total > 0 ? done / total : 0
  const percent = Math.min(100, Math.floor(share * 100))
  const repos = ` ${short(done)} of ${short(total)} repos · ${percent} %`
  const left = leftSeconds === null ? '' : ` · about ${duration(leftSeconds)} left`
  const text = done >= total ? ` all ${short(total)} repos are fetched` : `${repos}${left}`
  // The text has its place from the start, so that the bar does not change its length.
  const textColumns = Math.min(48, Math.max(0, width - labelColumns - 10))
  const { full, empty } = bar(share, Math.max(0, width - labelColumns - textColumns))
  return [...label('backfill'), span(full, 'good'), span(empty, 'dim'), span(text)]
}

function standing({ waiting, behindSeconds, deadLetters }: ViewState): Line {
  const known = [waiting.live, waiting.labels, waiting.backfill].filter((one) => one !== null)
  const lag = known.length === 0 ? null : known.reduce((sum, one) => sum + one, 0)
  const behind = behindSeconds === null ? '' : `, ${duration(behindSeconds)} behind the relay`
  const dead = span(`dead letters ${short(deadLetters)}`, (deadLetters ?? 0) > 0 ? 'bad' : 'plain')
  return [
    ...label('lag'),
    span(`${short(lag)} ${lag === 1 ? 'entry' : 'entries'}${behind}`),
    span(' · ', 'dim'),
    dead,
  ]
}

/** Where to connect to, all of it on this machine. */
function ports({ ports }: ViewState): Line {
  const known = ports.filter(([, numbers]) => numbers.length > 0)
  const parts = known.map(([name, numbers]) => `${name} ${numbers.join(', ')}`)
  return [...label('ports'), span(parts.join(' · '), 'dim')]
}

const stages: Readonly<Record<FaultStage, readonly [glyph: string, word: string, style: Style]>> = {
  failing: ['✕', 'for', 'bad'],
  healing: ['◐', 'healing, for', 'warn'],
  healed: ['✔', 'healed after', 'good'],
  stuck: ['✕', 'not healed after', 'bad'],
}

/** The newest last, as in a log. */
function faultLines(faults: readonly ShownFault[], most: number): Line[] {
  if (most <= 0) return []
  if (faults.length === 0) return [[...label('faults'), span('none so far', 'dim')]]
  return faults.slice(-most).map(({ at, text, stage, seconds }, index) => {
    const [glyph, word, style] = stages[stage]
    return [
      ...label(index === 0 ? 'faults' : ''),
      span(`${at} `, 'dim'),
      span(`${glyph} `, style),
      span(`${text}: `),
      span(`${word} ${duration(seconds)}`, style),
    ]
  })
}

function logLines(log: readonly string[], most: number): Line[] {
  if (most <= 0 || log.length === 0) return []
  return log.slice(-most).map((line, at) => [...label(at === 0 ? 'log' : ''), span(line, 'dim')])
}
