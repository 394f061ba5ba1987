import { BadRequestException, Body, Controller, Get, NotFoundException, Param, ParseIntPipe, Post } from '@nestjs/common';
import { Note, NotesService } from './notes.service';

@Controller('notes')
export class NotesController {
  constructor(private readonly notes: NotesService) {}

  @Post()
  async create(@Body() body: { text?: unknown }): Promise<Note> {
    if (typeof body?.text !== 'string' || body.text.trim() === '') {
      throw new BadRequestException('send JSON with a text: {"text": "..."}');
    }
    return this.notes.create(body.text);
  }

  @Get()
  async list(): Promise<Note[]> {
    return this.notes.list();
  }

  @Get(':id')
  async find(@Param('id', ParseIntPipe) id: number): Promise<Note> {
    const note = await this.notes.find(id);
    if (!note) {
      throw new NotFoundException(`there is no note ${id}`);
    }
    return note;
  }
}
