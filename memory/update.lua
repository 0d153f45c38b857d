-- Change a conversation that exists: its metadata, or one item's record.
-- KEYS: meta, log, segments, vectors, vector set
-- ARGV: 1 'metadata'  2 JSON    or    1 'redact'  2 item id  3 payload
-- Returns 'OK', 'MISSING', or 'NOITEM'. A redaction bumps the epoch, so that every process drops
-- its copy, and throws away the summaries and vectors that may hold the item's text.
local meta, log = KEYS[1], KEYS[2]
if redis.call('EXISTS', meta) == 0 then return 'MISSING' end
if ARGV[1] == 'metadata' then
  redis.call('HSET', meta, 'metadata', ARGV[2])
  return 'OK'
end
local seq = tonumber(string.match(ARGV[2], '^msg_(%x+)_%x+$') or '0', 16)
local record = seq and seq > 0 and redis.call('LINDEX', log, seq - 1)
if not record then return 'NOITEM' end
local id, parent, created = string.match(record, '^([^\n]*)\n([^\n]*)\n([^\n]*)\n')
if id ~= ARGV[2] then return 'NOITEM' end
redis.call('LSET', log, seq - 1, id .. '\n' .. parent .. '\n' .. created .. '\n' .. ARGV[3])
redis.call('HINCRBY', meta, 'epoch', 1)
redis.call('UNLINK', KEYS[3], KEYS[4], KEYS[5])
redis.call('HDEL', meta, 'in_set')
return 'OK'
