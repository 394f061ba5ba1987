import { Module } from '@nestjs/common';
import { Cache } from './cache';
import { Database } from './database';
import { HealthController } from './health/health.controller';
import { NotesController } from './notes/notes.controller';
import { NotesService } from './notes/notes.service';

@Module({
  controllers: [HealthController, NotesController],
  providers: [Cache, Database, NotesService],
})
export class AppModule {}
