-- Finds open ground for an episode: dry, level, without a roof, in a biome with trees. The seed decides where.

local REACH = 25000 -- nodes from the centre of the world; it ends at 31000
local CLEAR = 2 -- nodes around the player that must be level
local HEADROOM = 12 -- nodes of air above, more than a tree is high
local RENEWED = 160 -- nodes around a place that grow back when it is visited again
local BIOMES = {deciduous_forest = true, coniferous_forest = true, taiga = true, rainforest = true, savanna = true}

local visited = {}

local function is_air(x, y, z)
	return minetest.get_node({x = x, y = y, z = z}).name == "air"
end

local function is_solid(x, y, z)
	local node = minetest.registered_nodes[minetest.get_node({x = x, y = y, z = z}).name]
	return node ~= nil and node.walkable and node.name ~= "ignore"
end

local function is_open(x, y, z)
	for height = 1, HEADROOM do -- a plant may stand on the ground
		if is_solid(x, y + height, z) or height > 1 and not is_air(x, y + height, z) then
			return false
		end
	end
	return is_solid(x, y, z)
end

local function ground(pos)
	for y = pos.y + 16, pos.y - 16, -1 do
		if is_solid(pos.x, y, pos.z) then
			return y
		end
	end
end

-- Where to stand in this generated column, or nil.
local function standing_place(pos)
	local y = ground(pos)
	for x = pos.x - CLEAR, pos.x + CLEAR do
		for z = pos.z - CLEAR, pos.z + CLEAR do
			if not (y and is_open(x, y, z)) then
				return nil
			end
		end
	end
	return {x = pos.x, y = y + 0.5, z = pos.z}
end

local function draw(random)
	while true do
		local pos = {x = random:next(-REACH, REACH), z = random:next(-REACH, REACH)}
		pos.y = minetest.get_spawn_level(pos.x, pos.z)
		if pos.y then
			local biome = minetest.get_biome_data(pos)
			if biome and BIOMES[minetest.get_biome_name(biome.biome)] then
				return pos
			end
		end
	end
end

local function renew(pos)
	local key = minetest.pos_to_string(pos)
	if visited[key] then
		minetest.delete_area(vector.subtract(pos, RENEWED), vector.add(pos, RENEWED))
	end
	visited[key] = true
end

-- Calls found(pos) once such a place is drawn and generated.
local function find(random, found)
	local pos = draw(random)
	renew(pos)
	local margin = {x = 24, y = 16, z = 24}
	minetest.emerge_area(vector.subtract(pos, margin), vector.add(pos, margin), function(_, _, remaining)
		if remaining == 0 then
			local place = standing_place(pos)
			if place then
				found(place)
			else
				find(random, found)
			end
		end
	end)
end

return {find = find}
