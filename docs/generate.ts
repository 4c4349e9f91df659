/** Writes the pages and files that are made from tables in the code; `--check` fails when they are stale. */
import { readFileSync, writeFileSync } from 'node:fs'
import { options as backfiller } from '../backfiller/options.ts'
import { dashboards } from '../deploy/dashboards.ts'
import { type Metric, metricsOf, services as workers } from '../deploy/metrics.ts'
import { listCollections } from '../indexer/listing.ts'
import { options as indexer } from '../indexer/options.ts'
import { options as ingester } from '../ingester/options.ts'
import { options as migrate } from '../migrations/options.ts'
import type { Option, Options } from '../shared/config.ts'

const services: Record<string, Options> = { ingester, indexer, backfiller, migrate }

const pages = {
  'docs/collections.md': collectionsPage(),
  'docs/configuration.md': configurationPage(),
  'docs/metrics.md': metricsPage(),
  '.env.example': exampleFile(),
  ...Object.fromEntries(
    dashboards().map((dashboard) => [
      `deploy/grafana/dashboards/${dashboard.uid}.json`,
      `${JSON.stringify(dashboard, null, 2)}\n`,
    ]),
  ),
}

const root = new URL('..', import.meta.url)
const check = process.argv.includes('--check')
for (const [name, page] of Object.entries(pages)) {
  const file = new URL(name, root)
  if (!check) writeFileSync(file, page)
  else if (current(file) !== page) {
    process.stderr.write(`${name} is stale: run npm run docs\n`)
    process.exitCode = 1
  }
}

function current(file: URL): string | null {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return null // a page that is not there is stale
  }
}

function collectionsPage(): string {
  const rows = listCollections()
  const names = Object.keys(rows[0] ?? {})
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`
  const table = [
    line(names),
    line(names.map(() => '---')),
    ...rows.map((row) => line(names.map((name) => row[name] ?? ''))),
  ]
  return `# Collections

What becomes of the records of each collection. Made by \`npm run docs\` from the table of collections
(\`indexer/collections/\`); \`sluice collections\` prints the same; do not edit. Every record has a row in
\`record\` too. Others, where \`INDEXER_COLLECTIONS\` asks for them, have that row alone, unvalidated.

${table.join('\n')}

Of several records with the same \`unique\` columns the one with the lowest URI has the row; the others wait in
\`duplicate_record\`. Where \`rkey\` is \`self\`, a record of another key has its \`record\` row alone.
What a post's notifications depend on beside the post is told in [architecture.md](architecture.md).
`
}

function configurationPage(): string {
  const sections = Object.entries(services).map(([service, options]) => {
    const rows = Object.values(options).map(tableRow)
    const head = '| name | default | what it is |\n|---|---|---|'
    return `## ${service}\n\n${head}\n${rows.join('\n')}\n`
  })
  return `# Configuration

Settings come from the environment. Made by \`npm run docs\` from each service's \`options.ts\`; do not edit.
A setting without a default is required. One that holds a credential may come from a file: \`<name>_FILE\` is then its path.
All problems are told in one message, and the process ends with exit code 2.

${sections.join('\n')}`
}

function tableRow(option: Option): string {
  const others = [...(option.secret ? [`${option.env}_FILE`] : []), ...(option.aliases ?? [])]
  const aliases = others.length > 0 ? ` (also ${others.map(code).join(', ')})` : ''
  const doc = option.doc.replaceAll('|', '\\|')
  return `| ${code(option.env)}${aliases} | ${defaultOf(option)} | ${doc} |`
}

function defaultOf(option: Option): string {
  if (option.default === undefined) return '**required**'
  return option.default === '' ? '' : code(option.default)
}

function code(text: string): string {
  return `\`${text}\``
}

function metricsPage(): string {
  const sections = workers.map((worker) => {
    const rows = metricsOf(worker).map(metricRow)
    const head = '| name | type | labels | what it is |\n|---|---|---|---|'
    return `## ${worker}\n\n${head}\n${rows.join('\n')}\n`
  })
  return `# Metrics

Each worker serves these at \`/metrics\`, beside \`process_*\` and \`nodejs_*\`. Made by \`npm run docs\` from what the
workers register; do not edit. Those without labels keep the names of the older workers' dashboards.

${sections.join('\n')}`
}

function metricRow({ name, type, labels, help }: Metric): string {
  return `| ${code(name)} | ${type} | ${labels.map(code).join(' ')} | ${help.replaceAll('|', '\\|')} |`
}

function exampleFile(): string {
  const seen = new Map<string, { option: Option; used: string[] }>()
  for (const [service, options] of Object.entries(services)) {
    for (const option of Object.values(options)) {
      const entry = seen.get(option.env) ?? { option, used: [] }
      entry.used.push(service)
      seen.set(option.env, entry)
    }
  }
  const blocks = [...seen.values()].map(({ option, used }) => {
    const required = option.default === undefined ? ' Required.' : ''
    return `# ${option.doc}${required} (${used.join(', ')})\n#${option.env}=${option.default ?? ''}\n`
  })
  return `# Every setting of every service, with its default. Made by npm run docs; do not edit.\n\n${blocks.join('\n')}`
}
