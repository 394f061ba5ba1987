import { Injectable, OnModuleDestroy, OnModuleInit } from '@nestjs/common';
import { readFileSync } from 'node:fs';
import { Pool, QueryResultRow } from 'pg';

/** The pool of connections to PostgreSQL, and the table that this service needs. */
@Injectable()
export class Database implements OnModuleInit, OnModuleDestroy {
  private readonly pool = new Pool({
    host: process.env.DATABASE_HOST ?? 'localhost',
    port: Number(process.env.DATABASE_PORT ?? 5432),
    user: process.env.DATABASE_USER ?? 'notes',
    database: process.env.DATABASE_NAME ?? 'notes',
    password: password(),
    max: 10,
  });

  async onModuleInit(): Promise<void> {
    // A connection that breaks while idle is replaced by the pool; without a listener it would end the process.
    this.pool.on('error', (error) => console.error('database connection lost:', error.message));
    await this.pool.query(
      'CREATE TABLE IF NOT EXISTS notes (id serial PRIMARY KEY, text text NOT NULL, created timestamptz NOT NULL DEFAULT now())',
    );
  }

  async onModuleDestroy(): Promise<void> {
    await this.pool.end();
  }

  async query<Row extends QueryResultRow>(sql: string, values: unknown[] = []): Promise<Row[]> {
    return (await this.pool.query<Row>(sql, values)).rows;
  }
}

/** The password comes from a secret (a file that Compose mounts), never from the image or the environment. */
function password(): string | undefined {
  const file = process.env.DATABASE_PASSWORD_FILE;
  return file ? readFileSync(file, 'utf8').trim() : process.env.DATABASE_PASSWORD;
}
