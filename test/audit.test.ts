/** `npm run audit`, at a registry on loopback. */
import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { env } from './env.ts'

const advisory = (severity: string) => ({
  ws: [
    {
      ...{ id: 1, url: 'https://advisories.test/1', title: 'Reads too far', severity },
      ...{ vulnerable_versions: '<99.0.0', cwe: [], cvss: { score: 0, vectorString: null } },
    },
  ],
})

/** Runs it at a registry that answers so; tells whether that was asked. */
async function audit(status: number, answer: object) {
  let asked = 0
  const server = createServer((request, response) => {
    const isAudit = request.url?.includes('/advisories/bulk') === true
    if (isAudit) asked += 1
    request.resume().on('end', () => {
      response.writeHead(isAudit ? status : 404, { 'content-type': 'application/json' })
      response.end(JSON.stringify(isAudit ? answer : {}))
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const npm_config_registry = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  const script = fileURLToPath(new URL('./audit.ts', import.meta.url))
  // npm remembers what it was told of a fault.
  const npm_config_cache = await mkdtemp(join(tmpdir(), 'sluice-npm-'))
  const own = { ...env, npm_config_registry, npm_config_cache, npm_config_fetch_retries: '0' }
  try {
    return await new Promise<{ code: number; out: string; err: string; asked: number }>((resolve) =>
      execFile(process.execPath, [script], { env: own }, (error, out, err) =>
        resolve({ code: error === null ? 0 : Number(error.code), out, err, asked }),
      ),
    )
  } finally {
    server.closeAllConnections()
    server.close()
    await rm(npm_config_cache, { recursive: true })
  }
}

test.each(['high', 'critical'])('a dependency with a fault of level %s fails', async (level) => {
  const { code, err, asked } = await audit(200, advisory(level))
  expect(asked).toBe(1)
  expect(code).toBe(1)
  expect(err).toContain(`${level}: ws: Reads too far`)
})

test('a lesser fault, or none, does not', async () => {
  expect(await audit(200, advisory('moderate'))).toMatchObject({ code: 0, asked: 1 })
  expect(await audit(200, {})).toMatchObject({ code: 0, asked: 1 })
})

test('a registry that can not be asked fails nothing, and it is said loudly', async () => {
  const { code, err, asked } = await audit(405, { error: 'not here' })
  expect([code, asked]).toEqual([0, 1])
  expect(err).toContain('NOT AUDITED')
})
