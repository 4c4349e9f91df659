/** A pgbouncer in transaction mode before a Postgres: Debian's, and every transaction may get another session. */
import { chmod, chown, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import postgres from 'postgres'
import { inject } from 'vitest'
import { serverIdentity } from '../../start/postgres.ts'
import { freePort, type ServerProcess, startServer } from '../../start/process.ts'
import { findTool } from './tool.ts'

export interface Pgbouncer extends AsyncDisposable {
  readonly port: number
  /** The same URL by way of pgbouncer. */
  through(url: string): string
  /** Transactions that it has carried in this life, of all databases. */
  transactions(): Promise<number>
  /** Kills it and starts it again on its port: every session is cut. */
  restart(): Promise<void>
}

const sets = [{ packages: ['pgbouncer'], program: 'usr/sbin/pgbouncer' }]

/** Starts pgbouncer for every database of the server that the URL names; under root, as another user. */
export async function startPgbouncer(databaseUrl: string): Promise<Pgbouncer> {
  const program = await findTool('pgbouncer', sets)
  const identity = await serverIdentity()
  const dir = await mkdtemp(join(inject('servers').folder, 'pgbouncer-'))
  await chmod(dir, 0o755)
  const port = await freePort()
  const configFile = join(dir, 'pgbouncer.ini')
  const usersFile = join(dir, 'users.txt')
  const { hostname, port: serverPort, username, password } = new URL(databaseUrl)
  const user = decodeURIComponent(username)
  await writeFile(usersFile, `"${user}" "${decodeURIComponent(password)}"\n`, { mode: 0o600 })
  await writeFile(
    configFile,
    [
      '[databases]',
      `* = host=${hostname} port=${serverPort || '5432'}`,
      '[pgbouncer]',
      'listen_addr = 127.0.0.1',
      `listen_port = ${port}`,
      'unix_socket_dir =',
      'auth_type = scram-sha-256',
      `auth_file = ${usersFile}`,
      `admin_users = ${user}`,
      'pool_mode = transaction',
      'max_client_conn = 200',
      'default_pool_size = 6',
      // Neighbouring transactions of one client get different sessions, so that a setting or a
      // prepared statement that was left in one is missed at once.
      'server_round_robin = 1',
      '',
    ].join('\n'),
    { mode: 0o600 },
  )
  if (identity) {
    for (const file of [usersFile, configFile]) await chown(file, identity.uid, identity.gid)
  }
  const start = (): Promise<ServerProcess> =>
    startServer({
      name: 'pgbouncer',
      command: program.command,
      args: [configFile],
      cwd: dir,
      env: { LC_ALL: 'C', ...program.env },
      logFile: join(dir, 'pgbouncer.log'),
      identity,
      isReady: () => listens(port),
      readyWithinMs: 20_000,
      stopSteps: [
        ['SIGTERM', 2_000],
        ['SIGKILL', 500],
      ],
    })

  let server = await start()
  const through = (url: string) => {
    const pooled = new URL(url)
    pooled.hostname = '127.0.0.1'
    pooled.port = String(port)
    return pooled.href
  }
  return {
    port,
    through,
    async transactions() {
      const console = new URL(through(databaseUrl))
      console.pathname = '/pgbouncer'
      const sql = postgres(console.href, { max: 1, prepare: false, fetch_types: false })
      try {
        const rows = await sql.unsafe('show stats').simple()
        return rows.reduce((sum, row) => sum + Number(row['total_xact_count']), 0)
      } finally {
        await sql.end({ timeout: 1 })
      }
    },
    async restart() {
      process.kill(server.pid, 'SIGKILL')
      await server.exited
      server = await start()
    },
    async [Symbol.asyncDispose]() {
      await server.stop()
      await rm(dir, { recursive: true, force: true })
    },
  }
}

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port })
    const finish = (ready: boolean) => {
      socket.destroy()
      resolve(ready)
    }
    socket.on('error', () => finish(false))
    socket.on('connect', () => finish(true))
  })
}
