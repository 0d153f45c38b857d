-- Load a conversation, or only what is new since the caller last looked.
-- KEYS: meta, log, tombstone, segments
-- ARGV: 1 known generation  2 known epoch  3 known n_items  4 most items to return
--       5 known revision of the segments
-- Returns {'FOUND', gen, epoch, created_ms, name, metadata, instructions, tip, n_items, from_seq,
--          items, segments' revision, segments} or {'DELETED'} or {'MISSING'}.
-- from_seq is the seq of the first returned item: known + 1, or 1 when the caller's copy is stale.
-- segments is a flat list of ranges and texts, empty when the caller has this revision.
local m = redis.call('HMGET', KEYS[1], 'gen', 'epoch', 'created', 'name', 'metadata',
                     'instructions', 'tip', 'segments')
if not m[1] then
  if redis.call('EXISTS', KEYS[3]) == 1 then return {'DELETED'} end
  return {'MISSING'}
end
local known, segments_known = tonumber(ARGV[3]), ARGV[5]
if m[1] ~= ARGV[1] or m[2] ~= ARGV[2] then known, segments_known = 0, '' end
local n = redis.call('LLEN', KEYS[2])
local items, segments = {}, {}
if n > known and ARGV[4] ~= '0' then
  items = redis.call('LRANGE', KEYS[2], known, known + ARGV[4] - 1)
end
local revision = m[8] or ''
if revision ~= segments_known then segments = redis.call('HGETALL', KEYS[4]) end
return {'FOUND', m[1], m[2], m[3], m[4], m[5] or '', m[6] or '', m[7] or '', n, known + 1,
        items, revision, segments}
