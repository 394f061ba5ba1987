import { Controller, Get, ServiceUnavailableException } from '@nestjs/common';
import { Cache } from '../cache';
import { Database } from '../database';

@Controller('health')
export class HealthController {
  constructor(
    private readonly database: Database,
    private readonly cache: Cache,
  ) {}

  /** 200 when PostgreSQL and Redis both answer. */
  @Get()
  async check(): Promise<Record<string, string>> {
    const [database, cache] = await Promise.all([state(this.database.query('SELECT 1')), state(this.cache.ping())]);
    const result = { status: database === 'up' && cache === 'up' ? 'ok' : 'error', database, cache };
    if (result.status !== 'ok') {
      throw new ServiceUnavailableException(result);
    }
    return result;
  }
}

async function state(answer: Promise<unknown>): Promise<string> {
  return answer.then(
    () => 'up',
    () => 'down',
  );
}
