import { Injectable, OnModuleDestroy } from '@nestjs/common';
import Redis from 'ioredis';

/** Redis, as a cache: whatever is in it can be lost, so a failing cache slows requests down and breaks none. */
@Injectable()
export class Cache implements OnModuleDestroy {
  private readonly redis = new Redis({
    host: process.env.REDIS_HOST ?? 'localhost',
    port: Number(process.env.REDIS_PORT ?? 6379),
    maxRetriesPerRequest: 1,
  });
  private readonly seconds = Number(process.env.CACHE_SECONDS ?? 60);

  constructor() {
    this.redis.on('error', (error: Error) => console.error('cache:', error.message));
  }

  async get<Value>(key: string): Promise<Value | null> {
    try {
      const text = await this.redis.get(key);
      return text === null ? null : (JSON.parse(text) as Value);
    } catch {
      return null;
    }
  }

  async set(key: string, value: unknown): Promise<void> {
    try {
      await this.redis.set(key, JSON.stringify(value), 'EX', this.seconds);
    } catch {
      // Not remembered, then.
    }
  }

  async ping(): Promise<void> {
    await this.redis.ping();
  }

  async onModuleDestroy(): Promise<void> {
    this.redis.disconnect();
  }
}
