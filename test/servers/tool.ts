/** A program that a test needs: the machine's own, else the distribution's, unpacked into the cache. */
import { type PackageSet, type Program, runs, unpackedProgram } from '../../start/debian.ts'
import { findPlaces, findProgram } from '../../start/places.ts'
import { env } from '../env.ts'

/** Throws `NoPackageError` where there is neither. */
export async function findTool(name: string, sets: readonly PackageSet[]): Promise<Program> {
  const places = await findPlaces(env)
  const installed = await findProgram(places, name)
  if (installed !== null && (await runs({ command: installed, env: {} }))) {
    return { command: installed, env: {}, origin: installed }
  }
  return unpackedProgram(places, { name, sets })
}
