package forge

// budget is what one credential may ask of one API. (To come.)
type budget struct{}
