/** A screen as an SVG. */
import { expect, test } from 'vitest'
import { picture } from './view-picture.ts'
import { span } from './view-text.ts'

test('text is escaped, and each word stands at the column it has on the screen', () => {
  const svg = picture([[span('a <b>', 'bad'), span(' 記 x')]], 10, 'a & b')
  expect(svg).toContain('<title>a &amp; b</title>')
  expect(svg).toContain('<text class="bad" x="14" y="27" textLength="8.4">a</text>')
  expect(svg).toContain('<text class="bad" x="30.8" y="27" textLength="25.2">&lt;b></text>')
  expect(svg).toContain('<text class="plain" x="64.4" y="27" textLength="16.8">記</text>')
  expect(svg).toContain('<text class="plain" x="89.6" y="27" textLength="8.4">x</text>')
})

test('lines, blocks and arrow heads are shapes, those of one style one path', () => {
  const svg = picture([[span('┌─┐▶', 'dim')], [span('█░▁', 'good')]], 4, '')
  expect(svg).not.toContain('<text')
  expect(svg.match(/<path/g)?.length).toBe(4)
})
