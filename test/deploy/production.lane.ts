/** docker-compose.prod.yml as an operator starts it, while a simulated network lives. */
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { type DeployRoom, openDeployRoom } from './room.ts'

const indexers = [1, 2, 3, 4, 5, 6].map((number) => `indexer${number}`)
const workers = ['ingester', ...indexers, 'backfiller1', 'backfiller2']
const servers = ['redis', 'postgres', 'pgbouncer1', 'pgbouncer2', 'prometheus']

let room: DeployRoom

beforeAll(async () => {
  room = await openDeployRoom('production')
})
afterAll(() => room[Symbol.asyncDispose]())

test('every container starts when what it needs is healthy', async () => {
  const seen = room.stack.events
  const at = (service: string, action: string) => {
    const found = seen.findIndex((event) => event.service === service && event.action === action)
    expect(found, `${service} ${action}`).toBeGreaterThanOrEqual(0)
    return found
  }
  const healthy = 'health_status: healthy'
  const bouncers = [at('pgbouncer1', healthy), at('pgbouncer2', healthy)]
  expect(at('migrate', 'start')).toBeGreaterThan(Math.max(...bouncers))
  for (const worker of workers) {
    expect(at(worker, 'start'), worker).toBeGreaterThan(at('redis', healthy))
  }
  for (const indexer of indexers) {
    expect(at(indexer, 'start'), indexer).toBeGreaterThan(at('migrate', 'die'))
  }
  expect((await room.stack.inspect('migrate')).State.ExitCode).toBe(0)
})

test('every worker becomes healthy', async () => {
  for (const worker of workers) await healthy(worker)
})

test.each([
  ['ingester', 4100, 'ingester_firehose_events_total'],
  ['backfiller1', 9091, 'backfiller_repos_processed_total'],
  ['backfiller2', 9092, 'backfiller_repos_processed_total'],
])('operators find the metrics of the %s at port %i', async (_, port, metric) => {
  const page = await fetch(`http://${room.stack.bind}:${port}/metrics`)
  expect(await page.text()).toContain(`\n${metric} `)
})

test('Prometheus scrapes all nine workers', async () => {
  const up = async () => {
    const query = encodeURIComponent('count(up == 1)')
    const answer = await fetch(`http://${room.stack.bind}:9099/api/v1/query?query=${query}`)
    const { data } = (await answer.json()) as { data: { result: { value: [number, string] }[] } }
    return data.result[0]?.value[1]
  }
  await expect.poll(up).toBe(String(workers.length))
})

describe.each(workers)('the container of %s', (worker) => {
  test('is told to be nobody, on a read-only file system, without rights to gain', async () => {
    const { Config, HostConfig } = await room.stack.inspect(worker)
    expect(Config.User).toBe('10001:10001')
    expect(HostConfig).toMatchObject({
      ReadonlyRootfs: true,
      CapDrop: ['ALL'],
      SecurityOpt: ['no-new-privileges:true'],
    })
  })

  test('is so, seen from inside', async () => {
    const status = await inside(worker, 'cat /proc/1/status')
    expect(status).toMatch(/^Uid:\s+10001\s+10001\s+10001\s+10001$/m)
    expect(status).toMatch(/^NoNewPrivs:\s+1$/m)
    for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) {
      expect(status).toMatch(new RegExp(`^${set}:\\s+0{16}$`, 'm'))
    }
    await expect(inside(worker, 'echo > /app/file')).rejects.toThrow('Read-only file system')
    await expect(inside(worker, 'echo > /file')).rejects.toThrow('Read-only file system')
  })

  test('has credentials in no setting and no argument', async () => {
    const { password } = new URL(room.stack.redisUrl)
    expect(password).toHaveLength(24)
    expect(await inside(worker, 'cat /run/secrets/redis_url')).toContain(password)
    expect(await inside(worker, 'cat /proc/1/environ /proc/1/cmdline')).not.toContain(password)
    const shown = await room.stack.docker('inspect', await room.stack.container(worker))
    expect(shown).not.toContain(password)
  })
})

test.each(servers)('%s gains no rights', async (server) => {
  const { SecurityOpt } = (await room.stack.inspect(server)).HostConfig
  expect(SecurityOpt).toEqual(['no-new-privileges:true'])
})

test('no log grows beyond a hundred megabytes', async () => {
  for (const service of [...workers, ...servers]) {
    const { LogConfig } = (await room.stack.inspect(service)).HostConfig
    expect(LogConfig, service).toEqual({
      Type: 'json-file',
      Config: { 'max-size': '20m', 'max-file': '5' },
    })
  }
})

test('limits of memory and CPU are upper bounds', async () => {
  const limits = async (service: string) => {
    const { Memory, NanoCpus } = (await room.stack.inspect(service)).HostConfig
    return { memory: Memory / 2 ** 30, cpus: NanoCpus / 1e9 }
  }
  expect(await limits('ingester')).toEqual({ memory: 2, cpus: 2 })
  // Of the four that stand in the file, this machine may not have all.
  for (const indexer of indexers) expect(await limits(indexer)).toEqual({ memory: 4, cpus: 2 })
  for (const number of [1, 2]) {
    expect(await limits(`backfiller${number}`)).toEqual({ memory: 4, cpus: 2 })
  }
  expect(await limits('redis')).toMatchObject({ memory: 2 })
})

test('Redis keeps an append-only file, and evicts nothing', async () => {
  const { redis } = room.stack
  const setting = async (name: string) => ((await redis.config('GET', name)) as string[])[1]
  expect(await setting('appendonly')).toBe('yes')
  expect(await setting('maxmemory-policy')).toBe('noeviction')
  expect(await setting('maxmemory')).toBe(String(2 ** 30))
})

test('pgbouncer gives a session for one transaction at a time', async () => {
  const settings = await inside('pgbouncer1', 'cat /etc/sluice/pgbouncer.ini')
  expect(settings).toMatch(/^pool_mode = transaction$/m)
  const connected = await room.stack.sql`
    select distinct host(client_addr) as host from pg_stat_activity
    where application_name like '%indexer%'`
  const addresses = await Promise.all(['pgbouncer1', 'pgbouncer2'].map(addressOf))
  expect(connected.length).toBeGreaterThan(0)
  expect(addresses).toEqual(expect.arrayContaining(connected.map(({ host }) => host)))
})

test('what the network does becomes rows', async () => {
  await room.life.progress()
})

test.each([...workers, 'redis', 'pgbouncer1', 'pgbouncer2', 'postgres'])(
  '%s is restarted, and the rest goes on',
  async (service) => {
    const before = await room.stack.inspect(service)
    await room.stack.compose('restart', service)
    const after = await room.stack.inspect(service)
    expect(after.State.StartedAt).not.toBe(before.State.StartedAt)
    await room.life.progress()
  },
)

test.each(['ingester', 'indexer1', 'backfiller1'])(
  '%s that was killed comes back by itself',
  async (worker) => {
    const id = await room.stack.container(worker)
    const pid = Number(await room.stack.docker('inspect', '--format', '{{.State.Pid}}', id))
    process.kill(pid, 'SIGKILL')
    await expect.poll(async () => (await room.stack.inspect(worker)).RestartCount).toBe(1)
    await healthy(worker)
    await room.life.progress()
  },
)

test('sluice answers in the container of an indexer', async () => {
  expect(await inside('indexer1', 'sluice --help')).toContain('Usage: sluice')
})

test('when all is quiet the rows equal the model, and the ledgers balance', async () => {
  await room.life.settle()
})

test.each(workers)('%s ends with code 0 before docker kills it after 10 s', async (worker) => {
  const { docker } = room.stack
  const id = await room.stack.container(worker)
  await docker('stop', '--time', '10', id)
  const { State } = await room.stack.inspect(worker)
  expect(State).toMatchObject({ Status: 'exited', ExitCode: 0 })
})

async function healthy(service: string): Promise<void> {
  await vi.waitFor(
    async () => expect((await room.stack.inspect(service)).State.Health?.Status).toBe('healthy'),
    // A machine may be busy with much else.
    { timeout: 240_000, interval: 500 },
  )
}

/** The address of the service's container on the stack's network. */
async function addressOf(service: string): Promise<string> {
  const format = '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}'
  const id = await room.stack.container(service)
  return (await room.stack.docker('inspect', '--format', format, id)).trim()
}

/** What a shell in the service's container prints. */
async function inside(service: string, command: string): Promise<string> {
  return room.stack.docker('exec', await room.stack.container(service), 'sh', '-c', command)
}
