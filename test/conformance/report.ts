/** What a comparison has found, for the screen and for `docs/conformance.md`. */
import { readFile, writeFile } from 'node:fs/promises'
import type { Explained } from './differences.ts'
import type { TableResult } from './rows.ts'

export interface Result {
  tables: readonly TableResult[]
  calls: number
  explained: Explained
}

const page = new URL('../../docs/conformance.md', import.meta.url)
const begin = '<!-- last result: written by npm run test:conformance -->'

export function summary({ tables, calls, explained }: Result): string {
  const rows = tables.reduce((sum, table) => sum + table.rows, 0)
  const known = [...explained.byName.values()].reduce((sum, count) => sum + count, 0)
  return (
    `${tables.length} tables, ${rows} rows, ${calls} calls: ` +
    `${known} differences explained, ${explained.unexplained.length} unexplained`
  )
}

/** Replaces the last result on the page. */
export async function writeReport(result: Result): Promise<void> {
  const { tables, explained } = result
  const text = await readFile(page, 'utf8')
  const above = text.slice(0, text.indexOf(begin) + begin.length)
  const lines = [
    '',
    `${summary(result)}.`,
    '',
    '| table | rows | rows and columns that differ |',
    '|---|---|---|',
    ...tables.map(
      ({ table, rows, differences }) => `| \`${table}\` | ${rows} | ${differences.length} |`,
    ),
    '',
    '| declared difference | seen |',
    '|---|---|',
    ...[...explained.byName].map(([name, count]) => `| ${name} | ${count} |`),
    '',
  ]
  await writeFile(page, above + lines.join('\n'))
}
