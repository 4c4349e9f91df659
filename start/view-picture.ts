/** A screen as an SVG: text as text, lines and blocks as shapes, so that no font moves them. Pure. */
import stringWidth from 'string-width'
import type { Line, Style } from './view-text.ts'

const cell = { width: 8.4, height: 18 }
const margin = 14
const fontSize = 14
const baseline = 13
const background = '#0d1117'

const colours: Readonly<Record<Style, string>> = {
  plain: '#c9d1d9',
  title: '#ffffff',
  dim: '#7d8590',
  accent: '#79c0ff',
  good: '#56d364',
  warn: '#e3b341',
  bad: '#ff7b72',
}
const boldStyles: ReadonlySet<Style> = new Set(['title', 'bad'])

/** Which ways a line goes from the middle of its cell. */
const strokes: Readonly<Record<string, string>> = {
  '─': 'lr',
  '│': 'ud',
  '┌': 'rd',
  '┐': 'ld',
  '└': 'ru',
  '┘': 'lu',
  '├': 'rud',
  '┤': 'lud',
  '┬': 'lrd',
  '┴': 'lru',
}
const blocks = '▁▂▃▄▅▆▇█'

interface Place {
  x: number
  y: number
}

/** The lines as a picture of that many columns. */
export function picture(lines: readonly Line[], columns: number, title: string): string {
  const width = Math.ceil(columns * cell.width + 2 * margin)
  const height = Math.ceil(lines.length * cell.height + 2 * margin)
  const words: string[] = []
  const drawn = new Map<string, string[]>()
  const draw = (style: Style, kind: 'stroke' | 'fill' | 'pale', path: string) => {
    const key = `${kind} ${style}`
    drawn.set(key, [...(drawn.get(key) ?? []), path])
  }

  for (const [row, line] of lines.entries()) {
    let column = 0
    for (const { text, style } of line) {
      for (const [part] of text.matchAll(
        / +|[─│┌┐└┘├┤┬┴▁▂▃▄▅▆▇█░▶▼]|[^ ─│┌┐└┘├┤┬┴▁▂▃▄▅▆▇█░▶▼]+/gu,
      )) {
        const at = { x: margin + column * cell.width, y: margin + row * cell.height }
        const columnsOf = stringWidth(part)
        if (part.trim() !== '') {
          const [kind, shape] = shapeOf(part, at)
          if (kind === 'text') words.push(word(part, style, at, columnsOf))
          else draw(style, kind, shape)
        }
        column += columnsOf
      }
    }
  }

  const paths = [...drawn].map(([key, shapes]) => {
    const [kind, style] = key.split(' ') as [string, Style]
    const colour = colours[style]
    const d = shapes.join('')
    if (kind === 'stroke') return `<path d="${d}" stroke="${colour}" fill="none"/>`
    return `<path d="${d}" fill="${colour}"${kind === 'pale' ? ' opacity=".25"' : ''}/>`
  })
  const classes = Object.entries(colours).map(([style, colour]) => {
    const weight = boldStyles.has(style as Style) ? ';font-weight:bold' : ''
    return `.${style}{fill:${colour}${weight}}`
  })
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${escaped(title)}">`,
    `<title>${escaped(title)}</title>`,
    `<style>text{font:${fontSize}px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}${classes.join('')}</style>`,
    `<rect width="${width}" height="${height}" rx="8" fill="${background}"/>`,
    ...paths,
    ...words,
    '</svg>\n',
  ].join('\n')
}

function word(text: string, style: Style, { x, y }: Place, columns: number): string {
  const length = round(columns * cell.width)
  const place = `x="${round(x)}" y="${round(y + baseline)}" textLength="${length}"`
  return `<text class="${style}" ${place}>${escaped(text)}</text>`
}

/** What is drawn for a glyph that is a line, a block or an arrow head; anything else is text. */
function shapeOf(glyph: string, { x, y }: Place): ['text' | 'stroke' | 'fill' | 'pale', string] {
  const ways = strokes[glyph]
  const [centre, middle] = [x + cell.width / 2, y + cell.height / 2]
  if (ways !== undefined) {
    const ends: Readonly<Record<string, string>> = {
      l: `H${round(x)}`,
      r: `H${round(x + cell.width)}`,
      u: `V${round(y)}`,
      d: `V${round(y + cell.height)}`,
    }
    const start = `M${round(centre)} ${round(middle)}`
    return ['stroke', [...ways].map((way) => start + ends[way]).join('')]
  }
  const level = blocks.indexOf(glyph) + 1
  if (level > 0) return ['fill', box(x, y, cell.height * (level / 8))]
  if (glyph === '░') return ['pale', box(x, y, cell.height)]
  if (glyph === '▶') {
    return ['fill', `M${round(x)} ${round(middle - 4)}l${cell.width} 4l${-cell.width} 4z`]
  }
  if (glyph === '▼') return ['fill', `M${round(centre - 4)} ${round(middle - 4)}h8l-4 9z`]
  return ['text', '']
}

/** A block that stands on the bottom of its cell. */
function box(x: number, y: number, height: number): string {
  const top = y + cell.height - height
  return `M${round(x)} ${round(top)}h${cell.width}v${round(height)}h${-cell.width}z`
}

function round(value: number): string {
  return String(Math.round(value * 10) / 10)
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;')
}
