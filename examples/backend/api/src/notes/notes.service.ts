import { Injectable } from '@nestjs/common';
import { Cache } from '../cache';
import { Database } from '../database';

export interface Note {
  id: number;
  text: string;
  created: string;
}

@Injectable()
export class NotesService {
  constructor(
    private readonly database: Database,
    private readonly cache: Cache,
  ) {}

  async create(text: string): Promise<Note> {
    const [note] = await this.database.query<Note>('INSERT INTO notes (text) VALUES ($1) RETURNING id, text, created', [text]);
    await this.cache.set(`note:${note.id}`, note);
    return note;
  }

  async list(): Promise<Note[]> {
    return this.database.query<Note>('SELECT id, text, created FROM notes ORDER BY id DESC LIMIT 100');
  }

  /** From Redis when it is there, else from PostgreSQL, and then it is in Redis for the next time. */
  async find(id: number): Promise<(Note & { from: 'cache' | 'database' }) | null> {
    const cached = await this.cache.get<Note>(`note:${id}`);
    if (cached) {
      return { ...cached, from: 'cache' };
    }
    const [note] = await this.database.query<Note>('SELECT id, text, created FROM notes WHERE id = $1', [id]);
    if (!note) {
      return null;
    }
    await this.cache.set(`note:${id}`, note);
    return { ...note, from: 'database' };
  }
}
